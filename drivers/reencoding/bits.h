/* Writing deflate's bits. */
#ifndef BITS_H
#define BITS_H

#include <stdint.h>

#include "deflate.h"

/* Bits that wait to be written. */
struct bits {
    uint8_t *to;
    uint64_t value;
    unsigned count;
};

static inline void put(struct bits *bits, uint64_t value, unsigned count) {
    bits->value |= value << bits->count;
    bits->count += count;
}

/* Write whole bytes (and up to seven behind them that the next ones replace): room for 57 bits more. */
static inline void flush(struct bits *bits) {
    store64(bits->to, bits->value);
    bits->to += bits->count >> 3;
    bits->value >>= bits->count & ~7U;
    bits->count &= 7;
}

static inline void align(struct bits *bits) {
    bits->count = (bits->count + 7) & ~7U;
    flush(bits);
}

#endif
