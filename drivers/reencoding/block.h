/* A deflate block under way. */
#ifndef BLOCK_H
#define BLOCK_H

#include <stdint.h>

#include "bits.h"
#include "deflate.h"
#include "reencoding.h"

enum {
    MAX_MATCHES = 50000, /* of a block */
    MIN_BLOCK = 5000,
    CLASSES = 10,
    DOUBTFUL = 6, /* up to which length a match may cost more than literals */
};

struct block {
    struct bits bits;
    struct match matches[MAX_MATCHES];
    uint32_t match_count;
    uint32_t unmatched; /* literals since the last of them */
    uint32_t start; /* in the member */
    uint32_t check_at;
    uint32_t literal_counts[LITERAL_SYMBOLS];
    uint32_t distance_counts[DISTANCE_SYMBOLS];
    uint32_t looked_at[CLASSES]; /* of what the block has so far, at the last check */
    uint8_t literal_costs[END_OF_BLOCK]; /* bits, nearly: as in the block before */
    uint8_t length_costs[MAX_MATCH + 1];
    uint8_t distance_costs[DISTANCE_SYMBOLS];
    uint8_t length_symbols[MAX_MATCH + 1]; /* less FIRST_LENGTH */
    uint8_t near_symbols[256]; /* of distances up to 256 */
    uint8_t far_symbols[256]; /* of those beyond, in steps of 128 */
    uint8_t static_literal_lengths[STATIC_LITERAL_SYMBOLS];
    uint8_t static_distance_lengths[STATIC_DISTANCE_SYMBOLS];
    uint16_t static_literal_codes[STATIC_LITERAL_SYMBOLS];
    uint16_t static_distance_codes[STATIC_DISTANCE_SYMBOLS];
};

/* Once. */
void make_block_tables(struct block *block);

/* Before the first member: `to` is where they are written, and nothing went before that tells what a match may cost. */
void first_block(struct block *block, uint8_t *to);

void begin_block(struct block *block, uint32_t at);

/* To be called wherever `at` has passed `check_at`, which depends on the content alone: perhaps the block ends here. */
void check_block(struct block *block, const uint8_t *data, uint32_t size, uint32_t at);

/* Write data[start..end) in the way that takes the fewest bits. */
void end_block(struct block *block, const uint8_t *data, uint32_t end, unsigned final);

static inline unsigned distance_symbol(const struct block *block, uint32_t distance) {
    return distance <= 256 ? block->near_symbols[distance - 1] : block->far_symbols[(distance - 1) >> 7];
}

/* Whether a match takes fewer bits than its bytes as literals. */
static inline int pays(const struct block *block, const uint8_t *data, uint32_t length, uint32_t distance) {
    if (length > DOUBTFUL) return 1;
    unsigned literals = 0;
    for (uint32_t index = 0; index < length; index++) literals += block->literal_costs[data[index]];
    return block->length_costs[length] + block->distance_costs[distance_symbol(block, distance)] <= literals;
}

static inline uint32_t add_literals(struct block *block, const uint8_t *data, uint32_t at, uint32_t count) {
    for (uint32_t index = 0; index < count; index++) block->literal_counts[data[at + index]]++;
    block->unmatched += count;
    return at + count;
}

static inline uint32_t add_match(struct block *block, uint32_t at, uint32_t length, uint32_t distance) {
    block->literal_counts[FIRST_LENGTH + block->length_symbols[length]]++;
    block->distance_counts[distance_symbol(block, distance)]++;
    block->matches[block->match_count++] =
        (struct match){block->unmatched, (uint16_t)length, (uint16_t)distance};
    block->unmatched = 0;
    return at + length;
}

#endif
