/* When a block ends, and writing it. */
#include "block.h"

#include "huffman.h"

enum {
    MAX_BLOCK = 300000,
    CHECK_EVERY = 4096, /* bytes after which a block may end */
    UNSEEN_LITERAL = 12, /* bits of a symbol that the block before had not */
    UNSEEN_LENGTH = 9,
    UNSEEN_DISTANCE = 7,
};

void make_block_tables(struct block *block) {
    for (int symbol = 0; symbol < LENGTHS; symbol++)
        for (int extra = 0; extra < 1 << LENGTH_EXTRA[symbol] && LENGTH_BASE[symbol] + extra <= MAX_MATCH; extra++)
            block->length_symbols[LENGTH_BASE[symbol] + extra] = (uint8_t)symbol; /* the last symbol takes 258 over */
    for (int symbol = 0; symbol < DISTANCE_SYMBOLS; symbol++)
        for (uint32_t extra = 0; extra < UINT32_C(1) << DISTANCE_EXTRA[symbol]; extra++) {
            const uint32_t distance = DISTANCE_BASE[symbol] + extra;
            if (distance <= 256) block->near_symbols[distance - 1] = (uint8_t)symbol;
            else block->far_symbols[(distance - 1) >> 7] = (uint8_t)symbol;
        }
    static_lengths(block->static_literal_lengths, block->static_distance_lengths);
    assign_codes(block->static_literal_lengths, STATIC_LITERAL_SYMBOLS, block->static_literal_codes);
    assign_codes(block->static_distance_lengths, STATIC_DISTANCE_SYMBOLS, block->static_distance_codes);
}

void begin_block(struct block *block, uint32_t at) {
    block->match_count = 0;
    block->unmatched = 0;
    block->start = at;
    block->check_at = at + CHECK_EVERY;
    memset(block->literal_counts, 0, sizeof block->literal_counts);
    memset(block->distance_counts, 0, sizeof block->distance_counts);
    memset(block->looked_at, 0, sizeof block->looked_at);
}

/* The code lengths of a dynamic block as they are sent (3.2.7): symbol in the low 5 bits, its extra bits above. */
static int pack_lengths(const uint8_t *lengths, int count, uint16_t *packed, uint32_t *counts) {
    int size = 0;
    for (int at = 0; at < count;) {
        const uint8_t length = lengths[at];
        int run = 1;
        while (at + run < count && lengths[at + run] == length) run++;
        at += run;
        if (length) {
            packed[size++] = length;
            run--;
        }
        while (run >= 3) {
            const int most = length ? 6 : run > 10 ? 138 : 10;
            const int times = run < most ? run : most;
            const int symbol = length ? REPEAT_LAST : most == 10 ? REPEAT_ZERO : REPEAT_ZEROS;
            packed[size++] = (uint16_t)(symbol | (times - (symbol == REPEAT_ZEROS ? 11 : 3)) << 5);
            run -= times;
        }
        while (run-- > 0) packed[size++] = length;
    }
    for (int at = 0; at < size; at++) counts[packed[at] & 31]++;
    return size;
}

static const uint8_t LENGTHS_EXTRA_BITS[LENGTHS_SYMBOLS] = {[REPEAT_LAST] = 2, [REPEAT_ZERO] = 3, [REPEAT_ZEROS] = 7};

static uint64_t cost(const uint32_t *counts, const uint8_t *lengths, int symbols) {
    uint64_t bits = 0;
    for (int symbol = 0; symbol < symbols; symbol++) bits += (uint64_t)counts[symbol] * lengths[symbol];
    return bits;
}

static int without_trailing_zeros(const uint8_t *lengths, int count, int least) {
    while (count > least && !lengths[count - 1]) count--;
    return count;
}

static void write_stored(struct bits *bits, const uint8_t *data, uint32_t size, unsigned final) {
    do {
        const uint32_t part = size < MAX_STORED ? size : MAX_STORED;
        put(bits, (final && part == size) | STORED_BLOCK << 1, 3);
        align(bits);
        put(bits, part | (uint64_t)(part ^ MAX_STORED) << 16, 32);
        flush(bits);
        memcpy(bits->to, data, part);
        bits->to += part;
        data += part;
        size -= part;
    } while (size);
}

/* One lookup for a symbol's code: code in the low 32 bits, its length above. */
static inline void put_entry(struct bits *bits, uint64_t entry) { put(bits, (uint32_t)entry, (unsigned)(entry >> 32)); }

static void write_symbols(struct block *block, const uint8_t *data, const uint8_t *literal_lengths,
                          const uint16_t *literal_codes, const uint8_t *distance_lengths, const uint16_t *distance_codes) {
    uint64_t literals[END_OF_BLOCK + 1], lengths[MAX_MATCH + 1];
    for (int symbol = 0; symbol <= END_OF_BLOCK; symbol++)
        literals[symbol] = literal_codes[symbol] | (uint64_t)literal_lengths[symbol] << 32;
    for (unsigned length = MIN_MATCH; length <= MAX_MATCH; length++) {
        const unsigned symbol = block->length_symbols[length], bits = literal_lengths[FIRST_LENGTH + symbol];
        lengths[length] = (literal_codes[FIRST_LENGTH + symbol] | (length - LENGTH_BASE[symbol]) << bits) |
                          (uint64_t)(bits + LENGTH_EXTRA[symbol]) << 32;
    }
    struct bits bits = block->bits;
    block->matches[block->match_count] = (struct match){block->unmatched, 0, 0}; /* there is room for one more */
    for (const struct match *match = block->matches;; match++) {
        uint32_t left = match->literals;
        for (; left >= 3; left -= 3, data += 3) {
            put_entry(&bits, literals[data[0]]);
            put_entry(&bits, literals[data[1]]);
            put_entry(&bits, literals[data[2]]);
            flush(&bits);
        }
        if (left) {
            put_entry(&bits, literals[*data++]);
            if (left > 1) put_entry(&bits, literals[*data++]);
            flush(&bits);
        }
        if (!match->length) break;
        const unsigned symbol = distance_symbol(block, match->distance);
        put_entry(&bits, lengths[match->length]);
        put(&bits, distance_codes[symbol], distance_lengths[symbol]);
        put(&bits, match->distance - (unsigned)DISTANCE_BASE[symbol], DISTANCE_EXTRA[symbol]);
        flush(&bits);
        data += match->length;
    }
    put_entry(&bits, literals[END_OF_BLOCK]);
    flush(&bits);
    block->bits = bits;
}

static void expect(struct block *block, const uint8_t *literal_lengths, const uint8_t *distance_lengths) {
    for (int symbol = 0; symbol < END_OF_BLOCK; symbol++)
        block->literal_costs[symbol] = literal_lengths[symbol] ? literal_lengths[symbol] : UNSEEN_LITERAL;
    for (int length = MIN_MATCH; length <= MAX_MATCH; length++) {
        const int symbol = block->length_symbols[length], bits = literal_lengths[FIRST_LENGTH + symbol];
        block->length_costs[length] = (uint8_t)((bits ? bits : UNSEEN_LENGTH) + LENGTH_EXTRA[symbol]);
    }
    for (int symbol = 0; symbol < DISTANCE_SYMBOLS; symbol++)
        block->distance_costs[symbol] =
            (uint8_t)((distance_lengths[symbol] ? distance_lengths[symbol] : UNSEEN_DISTANCE) + DISTANCE_EXTRA[symbol]);
}

void end_block(struct block *block, const uint8_t *data, uint32_t end, unsigned final) {
    uint8_t literal_lengths[LITERAL_SYMBOLS], distance_lengths[DISTANCE_SYMBOLS], own_lengths[LENGTHS_SYMBOLS];
    uint8_t sent[LITERAL_SYMBOLS + DISTANCE_SYMBOLS];
    uint16_t packed[LITERAL_SYMBOLS + DISTANCE_SYMBOLS], literal_codes[LITERAL_SYMBOLS], distance_codes[DISTANCE_SYMBOLS];
    uint16_t own_codes[LENGTHS_SYMBOLS];
    uint32_t own_counts[LENGTHS_SYMBOLS] = {0};
    struct bits *bits = &block->bits;
    const uint8_t *from = data + block->start;
    const uint32_t size = end - block->start;

    block->literal_counts[END_OF_BLOCK] = 1;
    huffman_lengths(block->literal_counts, LITERAL_SYMBOLS, MAX_CODE_BITS, literal_lengths);
    huffman_lengths(block->distance_counts, DISTANCE_SYMBOLS, MAX_CODE_BITS, distance_lengths);
    const int literals = without_trailing_zeros(literal_lengths, LITERAL_SYMBOLS, FIRST_LENGTH);
    const int distances = without_trailing_zeros(distance_lengths, DISTANCE_SYMBOLS, 1);
    memcpy(sent, literal_lengths, (size_t)literals);
    memcpy(sent + literals, distance_lengths, (size_t)distances);
    const int packed_size = pack_lengths(sent, literals + distances, packed, own_counts);
    huffman_lengths(own_counts, LENGTHS_SYMBOLS, MAX_LENGTHS_CODE_BITS, own_lengths);
    int own = LENGTHS_SYMBOLS;
    while (own > 4 && !own_lengths[LENGTHS_ORDER[own - 1]]) own--;

    uint64_t extra = 0;
    for (int symbol = 0; symbol < LENGTHS; symbol++)
        extra += (uint64_t)block->literal_counts[FIRST_LENGTH + symbol] * LENGTH_EXTRA[symbol];
    extra += cost(block->distance_counts, DISTANCE_EXTRA, DISTANCE_SYMBOLS);
    const uint64_t dynamic_cost = 17 + 3 * (uint64_t)own + cost(own_counts, own_lengths, LENGTHS_SYMBOLS) +
                                  cost(own_counts, LENGTHS_EXTRA_BITS, LENGTHS_SYMBOLS) +
                                  cost(block->literal_counts, literal_lengths, LITERAL_SYMBOLS) +
                                  cost(block->distance_counts, distance_lengths, DISTANCE_SYMBOLS) + extra;
    const uint64_t static_cost = 3 + cost(block->literal_counts, block->static_literal_lengths, LITERAL_SYMBOLS) +
                                 cost(block->distance_counts, block->static_distance_lengths, DISTANCE_SYMBOLS) + extra;
    const uint64_t stored_cost = 8 * (uint64_t)size + 40 * ((uint64_t)size / MAX_STORED + 1);

    if (stored_cost <= dynamic_cost && stored_cost <= static_cost) {
        write_stored(bits, from, size, final);
    } else if (static_cost <= dynamic_cost) {
        put(bits, final | STATIC_BLOCK << 1, 3);
        flush(bits);
        write_symbols(block, from, block->static_literal_lengths, block->static_literal_codes,
                      block->static_distance_lengths, block->static_distance_codes);
    } else {
        assign_codes(literal_lengths, LITERAL_SYMBOLS, literal_codes);
        assign_codes(distance_lengths, DISTANCE_SYMBOLS, distance_codes);
        assign_codes(own_lengths, LENGTHS_SYMBOLS, own_codes);
        put(bits, final | DYNAMIC_BLOCK << 1, 3);
        put(bits, (unsigned)literals - 257, 5);
        put(bits, (unsigned)distances - 1, 5);
        put(bits, (unsigned)own - 4, 4);
        flush(bits);
        for (int index = 0; index < own; index++) {
            put(bits, own_lengths[LENGTHS_ORDER[index]], 3);
            flush(bits);
        }
        for (int index = 0; index < packed_size; index++) {
            const unsigned symbol = packed[index] & 31;
            put(bits, own_codes[symbol], own_lengths[symbol]);
            put(bits, packed[index] >> 5, LENGTHS_EXTRA_BITS[symbol]);
            flush(bits);
        }
        write_symbols(block, from, literal_lengths, literal_codes, distance_lengths, distance_codes);
        expect(block, literal_lengths, distance_lengths);
    }
}

/* Whether what came since the last check is of another kind than the block before it, so that codes of its own pay. */
static int differs(struct block *block, uint32_t size) {
    uint32_t now[CLASSES] = {0}, old_total = 0, new_total = 0;
    for (int symbol = 0; symbol < END_OF_BLOCK; symbol++)
        now[(symbol >> 5 & 6) | (symbol & 1)] += block->literal_counts[symbol];
    for (int symbol = FIRST_LENGTH; symbol < LITERAL_SYMBOLS; symbol++)
        now[symbol < FIRST_LENGTH + 6 ? 8 : 9] += block->literal_counts[symbol];
    for (int class = 0; class < CLASSES; class ++) {
        old_total += block->looked_at[class];
        new_total += now[class] - block->looked_at[class];
    }
    uint64_t difference = 0;
    for (int class = 0; class < CLASSES; class ++) {
        const uint64_t expected = (uint64_t)block->looked_at[class] * new_total;
        const uint64_t actual = (uint64_t)(now[class] - block->looked_at[class]) * old_total;
        difference += expected > actual ? expected - actual : actual - expected;
    }
    memcpy(block->looked_at, now, sizeof now);
    return old_total && difference + size / 4096 * (uint64_t)old_total >= (uint64_t)new_total * 200 / 512 * old_total;
}

void check_block(struct block *block, const uint8_t *data, uint32_t size, uint32_t at) {
    const uint32_t length = at - block->start;
    block->check_at = at + CHECK_EVERY;
    const int other = differs(block, length);
    const int full = block->match_count > MAX_MATCHES - CHECK_EVERY / MIN_MATCH - 3; /* before the next check */
    const int pays = (other || length >= MAX_BLOCK) && length >= MIN_BLOCK && size - at >= MIN_BLOCK;
    if (full || pays) {
        end_block(block, data, at, 0);
        begin_block(block, at);
    }
}

void first_block(struct block *block, uint8_t *to) {
    block->bits = (struct bits){to, 0, 0};
    expect(block, block->static_literal_lengths, block->static_distance_lengths);
}
