"""Limits on memory, number and time, so that no caller can stop the listener; offenders are cut off.

None of these is a setting: each is far above what a modality needs. Limits that a site may want to change
(associations, time-outs, the size of an object) are in ``[listener]``.
"""

# One PDU and one message.
LARGEST_REQUEST = 2**18
"""Bytes of an A-ASSOCIATE-RQ: 128 contexts with every transfer syntax of PS3.5 take 190 KB."""
LARGEST_PDU = 2**20
"""Bytes of any other PDU, for peers that do not heed our smaller maximum length."""
LARGEST_COMMAND = 2**14
"""Bytes of a command set; a C-STORE-RQ has about 200."""
DISCARDED = 2**38
"""Bytes of a data set that is refused. One that is never answered would be sent again and again; its bytes
cost no disk, and no more of the network than objects that are taken."""
TINY_FRAGMENT = 64
"""Bytes: a PDU with a smaller fragment takes as much time of all senders as one of 16 KiB."""
TINY_FRAGMENTS = 32
"""Fragments of one message that are smaller; toolkits send two, the command and the data set's rest."""
DROPPED = 2**20
"""Bytes that may still come after we have aborted, before we close without waiting for the peer."""

# Parts of an A-ASSOCIATE-RQ.
REQUEST_ITEMS = 10_000
"""Items and their parts: 128 contexts with every transfer syntax of PS3.5 and three items of user information
for each take 8,500."""

# Time. ``acse_timeout_seconds`` bounds connect to association as a whole.
SLOWEST_BYTES_PER_SECOND = 100
"""A message gets ``network_timeout_seconds``, and one second more for each 100 bytes of it that came."""

# Connections and associations. An address is an IPv4 address or an IPv6 network of 64 bits.
WAITING = 64
"""Connections that have not asked for an association yet, of all addresses where no peer is known."""
WAITING_OF_PEERS = 64
"""As many places more, which only addresses of peers may use."""
WAITING_OF_ONE_ADDRESS = 32
"""Waiting connections of one address; a peer's address may have twice as many."""
STRANGERS = 10
"""Associations of unknown callers that may only verify; never more than half of all."""
STRANGERS_OF_ONE_ADDRESS = 3

# Events.
LISTED_A_MINUTE = 60
"""Rejections and failed handshakes of one address that are journalled one by one; more are counted."""
LISTED_OF_ONE_ASSOCIATION = 10
"""Echoes and refusals that get an event; the event of the association's end has the number of objects."""
LISTED_OF_A_SENDER = 100
"""The same of those that may send."""
EVENTS_WAITING = 1000
"""Events that wait for the journal while the disk is full; later ones are lost."""
REQUESTS_A_MINUTE = 300
"""Requests for and reports on storage commitment, and on performed procedure steps, of one peer; some
modalities ask for each image."""
OBJECTS_ASKED_A_MINUTE = 20_000
"""Objects of which it asks for storage commitment."""
ADDRESSES_A_MINUTE = 20
"""Addresses that get an event of their own with these counts; others are counted together."""
MOST_ADDRESSES = 1000
"""Addresses remembered at a time."""
REFUSED_CONTEXTS_NAMED = 8
"""An event names this many refused presentation contexts, and their number."""
