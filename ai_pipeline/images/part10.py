"""What Part 10 files have in their headers that pydicom 3.0 reads otherwise than DCMTK and most PACSs do.

pydicom goes by the last element where one of group 0002 stands twice, so that a second header, or a stray
element behind the first, replaces the transfer syntax. Importing this module mends it for every reader of
this process (PS3.10 7.1).
"""

import io
from typing import BinaryIO

from pydicom import filereader
from pydicom.dataset import FileMetaDataset

NOT_DEFLATED = "the data set is damaged, or not deflated without a header of zlib or gzip (PS3.5 A.5)"

_read_last_of_each = filereader._read_file_meta_info


def read_file_meta(file: BinaryIO) -> FileMetaDataset:
    """Read the File Meta Information and leave ``file`` at the data set. Of an element that stands twice in
    group 0002, the first counts; Group Length is not believed, since a wrong one is more common than a second
    header.
    """
    start = file.tell()
    meta = _read_last_of_each(file)
    length = file.tell() - start
    file.seek(start)
    header = io.BytesIO(file.read(length))
    elements = list(filereader.data_element_generator(header, False, True))
    if len(elements) > len(meta):
        for element in reversed(elements):
            meta[element.tag] = element
    return meta


filereader._read_file_meta_info = read_file_meta
