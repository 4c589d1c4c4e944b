/* What RFC 1951 fixes. */
#ifndef DEFLATE_H
#define DEFLATE_H

#include <stdint.h>
#include <string.h>

enum {
    MIN_MATCH = 3,
    MAX_MATCH = 258,
    WINDOW_SIZE = 32768,
    MAX_CODE_BITS = 15,
    MAX_LENGTHS_CODE_BITS = 7,
    END_OF_BLOCK = 256,
    FIRST_LENGTH = 257,
    LENGTHS = 29,
    LITERAL_SYMBOLS = FIRST_LENGTH + LENGTHS,
    STATIC_LITERAL_SYMBOLS = 288, /* two of them never occur */
    DISTANCE_SYMBOLS = 30,
    STATIC_DISTANCE_SYMBOLS = 32, /* so do two of these */
    LENGTHS_SYMBOLS = 19,
    REPEAT_LAST = 16, /* 3 to 6 times, 2 bits */
    REPEAT_ZERO = 17, /* 3 to 10 times, 3 bits */
    REPEAT_ZEROS = 18, /* 11 to 138 times, 7 bits */
    STORED_BLOCK = 0,
    STATIC_BLOCK = 1,
    DYNAMIC_BLOCK = 2,
    MAX_STORED = 65535,
};

/* 3.2.5 */
static const uint16_t LENGTH_BASE[LENGTHS] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                              31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_EXTRA[LENGTHS] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                              2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASE[DISTANCE_SYMBOLS] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                                         193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t DISTANCE_EXTRA[DISTANCE_SYMBOLS] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                         6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
/* 3.2.7 */
static const uint8_t LENGTHS_ORDER[LENGTHS_SYMBOLS] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

/* 3.2.6: the code lengths of a static block. */
static inline void static_lengths(uint8_t literals[STATIC_LITERAL_SYMBOLS], uint8_t distances[STATIC_DISTANCE_SYMBOLS]) {
    memset(literals, 8, 144);
    memset(literals + 144, 9, 112);
    memset(literals + 256, 7, 24);
    memset(literals + 280, 8, 8);
    memset(distances, 5, STATIC_DISTANCE_SYMBOLS);
}

/* Give symbols of these code lengths their codes (3.2.2), lowest bit first as they are written. */
static inline void assign_codes(const uint8_t *lengths, int symbols, uint16_t *codes) {
    unsigned count[MAX_CODE_BITS + 1] = {0}, next[MAX_CODE_BITS + 1], code = 0;
    for (int symbol = 0; symbol < symbols; symbol++) count[lengths[symbol]]++;
    count[0] = 0;
    next[0] = 0;
    for (int bits = 1; bits <= MAX_CODE_BITS; bits++) next[bits] = code = (code + count[bits - 1]) << 1;
    for (int symbol = 0; symbol < symbols; symbol++) {
        unsigned forward = next[lengths[symbol]]++, reversed = 0;
        for (int bit = 0; bit < lengths[symbol]; bit++, forward >>= 1) reversed = reversed << 1 | (forward & 1);
        codes[symbol] = (uint16_t)reversed;
    }
}

/* Little endian, whatever the machine's order and alignment. */
static inline uint64_t load64(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline void store64(uint8_t *to, uint64_t value) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    memcpy(to, &value, sizeof value);
}

#endif
