"""Bytes made wrong, the same way each time for one seed."""

import random


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, left out, doubled; lengths made extreme; the end cut off."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        if not result:
            break
        place = chance.randrange(len(result))
        kind = chance.randrange(5)
        if kind == 0:
            result[place] = chance.randrange(256)
        elif kind == 1:
            result[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 2:
            del result[place : place + chance.randrange(1, 40)]
        elif kind == 3:
            result[place:place] = result[place : place + chance.randrange(1, 200)]
        else:
            del result[max(place, 8) :]
    return bytes(result) or b"\0"
