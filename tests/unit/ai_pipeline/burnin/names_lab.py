"""Names of persons, and labels that are also names."""

NAMES = """
    Kim Lee Park Choi Jung Kang Cho Yoon Jang Lim Han Oh Seo Shin Kwon Hwang Ahn Song Ryu Hong Jeon Moon
    Yang Bae 김영희 이순자 박지우 최민서 정하은 김 이 박 최 홍길동 남궁민수
    Smith Johnson Williams Brown Jones Garcia Miller Davis
    Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin
    Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres
    Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Long Stone
    Head Lung Endo Colon Power Short Base Wall Bone Foote Hand Cross Post Rose Sage Lowe Mass Chin Cord
    Gall Leber Herz Mays Hart Art Sal Sid Ed Len Tad Lea Mia Max Cy Cor Ute Bea Ada Ida Dean Major Müller
    Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein
    Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Werner Krause Lehmann
    Köhler Herrmann Dubois Moreau Laurent Lefebvre Leroy Roux Fournier Girard Bonnet Dupont Lambert
    Rousseau Blanc Guérin Chevalier Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco
    Bruno Gallo Conti Costa Giordano Mancini Ivanov Petrov Sidorova Kuznetsova Смирнова Иванова Попова
    Соколов Kowalski Nowak Wiśniewska Wójcik Novák Svoboda Tanaka Suzuki Takahashi Watanabe Ito Yamamoto
    Nakamura Kobayashi Kato 田中 佐藤 鈴木 王 李 张伟 Wang Li
    Zhang Liu Chen Yang Zhao Huang Zhou Wu Xu Sun Hu Zhu
    Gao Lin He Guo Ma Luo Liang Zheng Tran Pham Hoang Phan Vu Dang Bui Ngo Ho Singh Kaur Sharma Verma
    Patel Gupta Khan Ahmed Hussain Ali Fatima Aisha Mohammed Haddad Yilmaz Kaya Demir Çelik Okafor Mensah
    Diallo Traoré Mbeki Abebe Silva Santos Oliveira Souza Pereira Lima Ferreira Alves Svensson Hansen
    Jensen Nielsen Virtanen Korhonen Papadopoulos O'Brien Al-Sayed van-Dijk Min-ji McDonald Mary Linda
    Anna Maria Emma Olivia Sophia Isabella Amelia Grace Hannah Elif Yuki Hana Priya Ananya Lena Ingrid
    Olga Natalia Chi Live Har
""".split()  # noqa: SIM905 - they are read as words


UNSAFE_LABELS = frozenset({"ENDO", "LONG", "COLON", "MAX"})  # labels of values, or words beside a noun
