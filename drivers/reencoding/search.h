/* Matches of our own, beside those of the source. */
#ifndef SEARCH_H
#define SEARCH_H

#include <stdint.h>
#include <string.h>

#include "block.h"
#include "deflate.h"

enum { HASH_BITS = 13 };

/* Of one member. */
struct search {
    uint32_t recent[1 << HASH_BITS]; /* the last place of three bytes among literals, plus one */
    uint16_t head[1 << HASH_BITS]; /* the last place of three bytes in the member */
    uint16_t chain[WINDOW_SIZE]; /* the place before a place */
    uint32_t hashed; /* places that they know */
};

void begin_search(struct search *search);

/* Matches for data[at..until), as far as the last of them reaches; checks the block. */
uint32_t find_matches(struct search *search, struct block *block, const uint8_t *data, uint32_t size, uint32_t at,
                      uint32_t until);

/* What the source has as literals, data[at..at + count), with short matches among them. Some compressors (Go's) find none of
 * three bytes, of which machine code is full. */
void find_short_matches(struct search *search, struct block *block, const uint8_t *data, uint32_t size, uint32_t at,
                        uint32_t count);

/* How many bytes at `one` and at `other` are equal, up to `most`; `room` bytes may be read at each. */
static inline uint32_t equal(const uint8_t *one, const uint8_t *other, uint32_t most, uint32_t room) {
    uint32_t size = 0;
    for (; size < most && size + 8 <= room; size += 8) {
        const uint64_t difference = load64(one + size) ^ load64(other + size);
        if (difference) {
            size += (uint32_t)__builtin_ctzll(difference) >> 3;
            break;
        }
    }
    if (size + 8 > room)
        while (size < most && one[size] == other[size]) size++;
    return size < most ? size : most;
}

/* Of three bytes, the first of four that are there. */
static inline uint32_t hash(const uint8_t *data) {
    uint32_t four;
    memcpy(&four, data, sizeof four);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    four = __builtin_bswap32(four);
#endif
    return (four << 8) * UINT32_C(0x9E3779B1) >> (32 - HASH_BITS);
}

#endif
