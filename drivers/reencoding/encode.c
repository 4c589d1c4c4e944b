/* Gzip members from matches that are known. */
#include <stdlib.h>

#include "deflate.h"
#include "huffman.h"
#include "reencoding.h"

enum {
    GZIP_HEAD = 10,
    GZIP_TAIL = 8,
    MAX_MATCHES = 50000, /* of a block */
    MIN_BLOCK = 5000,
    MAX_BLOCK = 300000,
    CHECK_EVERY = 4096, /* bytes after which a block may end */
    CLASSES = 10,
    HASH_BITS = 13,
    SEARCH_DEPTH = 16, /* earlier places looked at */
    GOOD_MATCH = 32, /* from which on the next byte is not tried for a better one */
    DOUBTFUL = 6, /* up to which length a match may cost more than literals */
    UNSEEN_LITERAL = 12, /* bits of a symbol that the block before had not */
    UNSEEN_LENGTH = 9,
    UNSEEN_DISTANCE = 7,
    FAR_FOR_SHORT = 4096, /* from where on a match of three bytes costs more than three literals */
    NOWHERE = 0xffff,
    JUDGED = 2000, /* matches after which it is known whether the source has some of three bytes */
};

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

/* Where the caller's matches stand: what is left of `*next`. */
struct cursor {
    const struct match *next, *end;
    uint64_t literals;
    uint32_t length;
};

struct encoder {
    struct bits bits;
    struct match matches[MAX_MATCHES]; /* of the block */
    uint32_t match_count;
    uint32_t unmatched; /* literals since the last of them */
    uint32_t block; /* where it begins in the member */
    uint32_t check_at;
    uint32_t literal_counts[LITERAL_SYMBOLS];
    uint32_t distance_counts[DISTANCE_SYMBOLS];
    uint32_t looked_at[CLASSES]; /* of what the block has so far, at the last check */
    uint32_t recent[1 << HASH_BITS]; /* the last place of three bytes among literals, plus one */
    uint32_t seen, seen_short; /* of the caller's matches, while it is not known whether it has short ones */
    uint16_t head[1 << HASH_BITS]; /* the last place of three bytes in the member */
    uint16_t chain[WINDOW_SIZE]; /* the place before a place */
    uint32_t hashed; /* places that they know */
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

struct encoder *reencoding_encoder_new(void) {
    struct encoder *encoder = malloc(sizeof *encoder);
    if (!encoder) return NULL;
    for (int symbol = 0; symbol < LENGTHS; symbol++)
        for (int extra = 0; extra < 1 << LENGTH_EXTRA[symbol] && LENGTH_BASE[symbol] + extra <= MAX_MATCH; extra++)
            encoder->length_symbols[LENGTH_BASE[symbol] + extra] = (uint8_t)symbol; /* the last symbol takes 258 over */
    for (int symbol = 0; symbol < DISTANCE_SYMBOLS; symbol++)
        for (uint32_t extra = 0; extra < UINT32_C(1) << DISTANCE_EXTRA[symbol]; extra++) {
            const uint32_t distance = DISTANCE_BASE[symbol] + extra;
            if (distance <= 256) encoder->near_symbols[distance - 1] = (uint8_t)symbol;
            else encoder->far_symbols[(distance - 1) >> 7] = (uint8_t)symbol;
        }
    static_lengths(encoder->static_literal_lengths, encoder->static_distance_lengths);
    assign_codes(encoder->static_literal_lengths, STATIC_LITERAL_SYMBOLS, encoder->static_literal_codes);
    assign_codes(encoder->static_distance_lengths, STATIC_DISTANCE_SYMBOLS, encoder->static_distance_codes);
    return encoder;
}

void reencoding_encoder_free(struct encoder *encoder) { free(encoder); }

static inline unsigned distance_symbol(const struct encoder *encoder, uint32_t distance) {
    return distance <= 256 ? encoder->near_symbols[distance - 1] : encoder->far_symbols[(distance - 1) >> 7];
}

/* ---- Blocks ---- */

static void begin_block(struct encoder *encoder, uint32_t at) {
    encoder->match_count = 0;
    encoder->unmatched = 0;
    encoder->block = at;
    encoder->check_at = at + CHECK_EVERY;
    memset(encoder->literal_counts, 0, sizeof encoder->literal_counts);
    memset(encoder->distance_counts, 0, sizeof encoder->distance_counts);
    memset(encoder->looked_at, 0, sizeof encoder->looked_at);
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

static void write_symbols(struct encoder *encoder, const uint8_t *data, const uint8_t *literal_lengths,
                          const uint16_t *literal_codes, const uint8_t *distance_lengths, const uint16_t *distance_codes) {
    uint64_t literals[END_OF_BLOCK + 1], lengths[MAX_MATCH + 1];
    for (int symbol = 0; symbol <= END_OF_BLOCK; symbol++)
        literals[symbol] = literal_codes[symbol] | (uint64_t)literal_lengths[symbol] << 32;
    for (unsigned length = MIN_MATCH; length <= MAX_MATCH; length++) {
        const unsigned symbol = encoder->length_symbols[length], bits = literal_lengths[FIRST_LENGTH + symbol];
        lengths[length] = (literal_codes[FIRST_LENGTH + symbol] | (length - LENGTH_BASE[symbol]) << bits) |
                          (uint64_t)(bits + LENGTH_EXTRA[symbol]) << 32;
    }
    struct bits bits = encoder->bits;
    encoder->matches[encoder->match_count] = (struct match){encoder->unmatched, 0, 0}; /* there is room for one more */
    for (const struct match *match = encoder->matches;; match++) {
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
        const unsigned symbol = distance_symbol(encoder, match->distance);
        put_entry(&bits, lengths[match->length]);
        put(&bits, distance_codes[symbol], distance_lengths[symbol]);
        put(&bits, match->distance - (unsigned)DISTANCE_BASE[symbol], DISTANCE_EXTRA[symbol]);
        flush(&bits);
        data += match->length;
    }
    put_entry(&bits, literals[END_OF_BLOCK]);
    flush(&bits);
    encoder->bits = bits;
}

static void expect(struct encoder *encoder, const uint8_t *literal_lengths, const uint8_t *distance_lengths) {
    for (int symbol = 0; symbol < END_OF_BLOCK; symbol++)
        encoder->literal_costs[symbol] = literal_lengths[symbol] ? literal_lengths[symbol] : UNSEEN_LITERAL;
    for (int length = MIN_MATCH; length <= MAX_MATCH; length++) {
        const int symbol = encoder->length_symbols[length], bits = literal_lengths[FIRST_LENGTH + symbol];
        encoder->length_costs[length] = (uint8_t)((bits ? bits : UNSEEN_LENGTH) + LENGTH_EXTRA[symbol]);
    }
    for (int symbol = 0; symbol < DISTANCE_SYMBOLS; symbol++)
        encoder->distance_costs[symbol] =
            (uint8_t)((distance_lengths[symbol] ? distance_lengths[symbol] : UNSEEN_DISTANCE) + DISTANCE_EXTRA[symbol]);
}

/* Whether a match takes fewer bits than its bytes as literals. */
static inline int pays(const struct encoder *encoder, const uint8_t *data, uint32_t length, uint32_t distance) {
    if (length > DOUBTFUL) return 1;
    unsigned literals = 0;
    for (uint32_t index = 0; index < length; index++) literals += encoder->literal_costs[data[index]];
    return encoder->length_costs[length] + encoder->distance_costs[distance_symbol(encoder, distance)] <= literals;
}

/* Write data[block..end) in the way that takes the fewest bits. */
static void end_block(struct encoder *encoder, const uint8_t *data, uint32_t end, unsigned final) {
    uint8_t literal_lengths[LITERAL_SYMBOLS], distance_lengths[DISTANCE_SYMBOLS], own_lengths[LENGTHS_SYMBOLS];
    uint8_t sent[LITERAL_SYMBOLS + DISTANCE_SYMBOLS];
    uint16_t packed[LITERAL_SYMBOLS + DISTANCE_SYMBOLS], literal_codes[LITERAL_SYMBOLS], distance_codes[DISTANCE_SYMBOLS];
    uint16_t own_codes[LENGTHS_SYMBOLS];
    uint32_t own_counts[LENGTHS_SYMBOLS] = {0};
    struct bits *bits = &encoder->bits;
    const uint8_t *from = data + encoder->block;
    const uint32_t size = end - encoder->block;

    encoder->literal_counts[END_OF_BLOCK] = 1;
    huffman_lengths(encoder->literal_counts, LITERAL_SYMBOLS, MAX_CODE_BITS, literal_lengths);
    huffman_lengths(encoder->distance_counts, DISTANCE_SYMBOLS, MAX_CODE_BITS, distance_lengths);
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
        extra += (uint64_t)encoder->literal_counts[FIRST_LENGTH + symbol] * LENGTH_EXTRA[symbol];
    extra += cost(encoder->distance_counts, DISTANCE_EXTRA, DISTANCE_SYMBOLS);
    const uint64_t dynamic_cost = 17 + 3 * (uint64_t)own + cost(own_counts, own_lengths, LENGTHS_SYMBOLS) +
                                  cost(own_counts, LENGTHS_EXTRA_BITS, LENGTHS_SYMBOLS) +
                                  cost(encoder->literal_counts, literal_lengths, LITERAL_SYMBOLS) +
                                  cost(encoder->distance_counts, distance_lengths, DISTANCE_SYMBOLS) + extra;
    const uint64_t static_cost = 3 + cost(encoder->literal_counts, encoder->static_literal_lengths, LITERAL_SYMBOLS) +
                                 cost(encoder->distance_counts, encoder->static_distance_lengths, DISTANCE_SYMBOLS) + extra;
    const uint64_t stored_cost = 8 * (uint64_t)size + 40 * ((uint64_t)size / MAX_STORED + 1);

    if (stored_cost <= dynamic_cost && stored_cost <= static_cost) {
        write_stored(bits, from, size, final);
    } else if (static_cost <= dynamic_cost) {
        put(bits, final | STATIC_BLOCK << 1, 3);
        flush(bits);
        write_symbols(encoder, from, encoder->static_literal_lengths, encoder->static_literal_codes,
                      encoder->static_distance_lengths, encoder->static_distance_codes);
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
        write_symbols(encoder, from, literal_lengths, literal_codes, distance_lengths, distance_codes);
        expect(encoder, literal_lengths, distance_lengths);
    }
}

/* Whether what came since the last check is of another kind than the block before it, so that codes of its own pay. */
static int differs(struct encoder *encoder, uint32_t size) {
    uint32_t now[CLASSES] = {0}, old_total = 0, new_total = 0;
    for (int symbol = 0; symbol < END_OF_BLOCK; symbol++)
        now[(symbol >> 5 & 6) | (symbol & 1)] += encoder->literal_counts[symbol];
    for (int symbol = FIRST_LENGTH; symbol < LITERAL_SYMBOLS; symbol++)
        now[symbol < FIRST_LENGTH + 6 ? 8 : 9] += encoder->literal_counts[symbol];
    for (int class = 0; class < CLASSES; class ++) {
        old_total += encoder->looked_at[class];
        new_total += now[class] - encoder->looked_at[class];
    }
    uint64_t difference = 0;
    for (int class = 0; class < CLASSES; class ++) {
        const uint64_t expected = (uint64_t)encoder->looked_at[class] * new_total;
        const uint64_t actual = (uint64_t)(now[class] - encoder->looked_at[class]) * old_total;
        difference += expected > actual ? expected - actual : actual - expected;
    }
    memcpy(encoder->looked_at, now, sizeof now);
    return old_total && difference + size / 4096 * (uint64_t)old_total >= (uint64_t)new_total * 200 / 512 * old_total;
}

/* To be called wherever `at` has passed `check_at`, which depends on the content alone. */
static void check_block(struct encoder *encoder, const uint8_t *data, uint32_t size, uint32_t at) {
    const uint32_t length = at - encoder->block;
    encoder->check_at = at + CHECK_EVERY;
    const int other = differs(encoder, length);
    const int full = encoder->match_count > MAX_MATCHES - CHECK_EVERY / MIN_MATCH - 3; /* before the next check */
    const int pays = (other || length >= MAX_BLOCK) && length >= MIN_BLOCK && size - at >= MIN_BLOCK;
    if (full || pays) {
        end_block(encoder, data, at, 0);
        begin_block(encoder, at);
    }
}

static inline uint32_t add_literals(struct encoder *encoder, const uint8_t *data, uint32_t at, uint32_t count) {
    for (uint32_t index = 0; index < count; index++) encoder->literal_counts[data[at + index]]++;
    encoder->unmatched += count;
    return at + count;
}

static inline uint32_t add_match(struct encoder *encoder, uint32_t at, uint32_t length, uint32_t distance) {
    encoder->literal_counts[FIRST_LENGTH + encoder->length_symbols[length]]++;
    encoder->distance_counts[distance_symbol(encoder, distance)]++;
    encoder->matches[encoder->match_count++] =
        (struct match){encoder->unmatched, (uint16_t)length, (uint16_t)distance};
    encoder->unmatched = 0;
    return at + length;
}

/* ---- Matches ---- */

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

/* The longest match at `at`, less than MIN_MATCH if there is none; there is none behind a member's first WINDOW_SIZE bytes. */
static uint32_t find(struct encoder *encoder, const uint8_t *data, uint32_t size, uint32_t at, uint32_t *distance) {
    const uint32_t most = size - at < MAX_MATCH ? size - at : MAX_MATCH;
    if (most <= MIN_MATCH || at >= WINDOW_SIZE) return 0;
    if (!encoder->hashed) memset(encoder->head, 0xff, sizeof encoder->head);
    for (uint32_t place = encoder->hashed; place < at; place++) {
        uint16_t *const last = &encoder->head[hash(data + place)];
        encoder->chain[place] = *last;
        *last = (uint16_t)place;
    }
    encoder->hashed = at;
    uint32_t best = MIN_MATCH - 1, place = encoder->head[hash(data + at)];
    for (int depth = 0; depth < SEARCH_DEPTH && place != NOWHERE && best < most; depth++) {
        if (data[place + best] == data[at + best]) {
            const uint32_t length = equal(data + place, data + at, most, size - at);
            if (length > best && (length > MIN_MATCH || at - place < FAR_FOR_SHORT)) {
                best = length;
                *distance = at - place;
            }
        }
        place = encoder->chain[place];
    }
    return best;
}

/* Matches of our own for data[at..until), as far as the last of them reaches. */
static uint32_t search(struct encoder *encoder, const uint8_t *data, uint32_t size, uint32_t at, uint32_t until) {
    uint32_t distance = 0, length = find(encoder, data, size, at, &distance);
    for (;;) {
        uint32_t next_distance = 0, next = 0;
        if (length < GOOD_MATCH && at + 1 < until) next = find(encoder, data, size, at + 1, &next_distance);
        const int taken = length >= MIN_MATCH && next <= length && pays(encoder, data + at, length, distance);
        at = taken ? add_match(encoder, at, length, distance) : add_literals(encoder, data, at, 1);
        if (at >= encoder->check_at) check_block(encoder, data, size, at);
        if (at >= until) return at;
        if (taken) {
            length = find(encoder, data, size, at, &distance);
        } else {
            length = next;
            distance = next_distance;
        }
    }
}

/* What the source has as literals, data[at..at + count), with short matches among them. Some compressors (Go's) find none of
 * three bytes, of which machine code is full. */
static void add_run(struct encoder *encoder, const uint8_t *data, uint32_t size, uint32_t at, uint32_t count) {
    const uint32_t until = at + count;
    while (at < until) {
        uint32_t length = 0, distance = 0;
        if (at + MIN_MATCH < size) {
            uint32_t *const recent = &encoder->recent[hash(data + at)];
            distance = at + 1 - *recent;
            if (*recent && distance < FAR_FOR_SHORT) {
                const uint32_t most = until - at < MAX_MATCH ? until - at : MAX_MATCH;
                length = equal(data + at - distance, data + at, most, size - at);
            }
            *recent = at + 1;
        }
        if (length >= MIN_MATCH && pays(encoder, data + at, length, distance)) {
            at = add_match(encoder, at, length, distance);
        } else {
            at = add_literals(encoder, data, at, 1);
        }
    }
}

/* Literals that stand in several records, as where a piece of the stream ended, are one run. */
static void next_match(struct cursor *cursor) {
    while (!cursor->length && cursor->next != cursor->end) {
        cursor->literals += cursor->next->literals;
        cursor->length = cursor->next->length;
        cursor->next++;
    }
    if (!cursor->literals && !cursor->length) cursor->literals = UINT64_MAX; /* nothing is known of the rest */
}

static void pass(struct cursor *cursor, uint64_t count) {
    while (count) {
        next_match(cursor);
        if (cursor->literals) {
            const uint64_t part = cursor->literals < count ? cursor->literals : count;
            cursor->literals -= part;
            count -= part;
        } else {
            const uint32_t part = cursor->length < count ? cursor->length : (uint32_t)count;
            cursor->length -= part;
            count -= part;
        }
    }
}

/* Deflate one member. */
static void encode(struct encoder *encoder, const uint8_t *data, uint32_t size, struct cursor *cursor) {
    encoder->hashed = 0;
    begin_block(encoder, 0);
    memset(encoder->recent, 0, sizeof encoder->recent);
    uint32_t at = 0;
    while (at < size) {
        next_match(cursor);
        if (cursor->literals) {
            const uint32_t most = (encoder->check_at < size ? encoder->check_at : size) - at;
            const uint32_t count = cursor->literals < most ? (uint32_t)cursor->literals : most;
            if (encoder->seen < JUDGED || encoder->seen_short < JUDGED / 100) {
                add_run(encoder, data, size, at, count);
                at += count;
            } else {
                at = add_literals(encoder, data, at, count);
            }
            cursor->literals -= count;
        } else {
            const uint32_t distance = cursor->next[-1].distance;
            const uint32_t length = cursor->length < size - at ? cursor->length : size - at;
            if (length >= MIN_MATCH && length <= MAX_MATCH && distance - 1 < at && distance <= WINDOW_SIZE &&
                equal(data + at - distance, data + at, length, size - at) == length) {
                if (encoder->seen < JUDGED) {
                    encoder->seen++;
                    encoder->seen_short += length == MIN_MATCH;
                }
                if (at + MIN_MATCH < size) encoder->recent[hash(data + at)] = at + 1;
                if (pays(encoder, data + at, length, distance)) at = add_match(encoder, at, length, distance);
                else at = add_literals(encoder, data, at, length);
                cursor->length -= length;
            } else {
                /* It reaches back beyond the member, at least at first, or is none of this data. */
                uint32_t lost = distance > at && distance - at < length ? distance - at : length;
                if (length - lost < MIN_MATCH) lost = length;
                const uint32_t reached = search(encoder, data, size, at, at + lost);
                pass(cursor, reached - at);
                at = reached;
            }
        }
        if (at >= encoder->check_at) check_block(encoder, data, size, at);
    }
    end_block(encoder, data, size, 1);
    align(&encoder->bits);
}

size_t reencoding_bound(size_t size, size_t count) {
    /* A stored block takes six bytes more than its data at most, and but for a member's last one there are MIN_BLOCK of them. */
    return size + size / 500 + count * (GZIP_HEAD + GZIP_TAIL + 16) + 64;
}

size_t reencoding_members(struct encoder *encoder, const uint8_t *data, size_t size, const uint32_t *starts, size_t count,
                          const struct match *matches, size_t match_count, int64_t skip, const uint32_t *checksums,
                          uint8_t *out, uint32_t *sizes) {
    static const uint8_t gzip_head[GZIP_HEAD] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff};
    struct cursor cursor = {matches, matches + match_count, 0, 0};
    if (skip < 0) cursor.literals = -(uint64_t)skip;
    else pass(&cursor, (uint64_t)skip);
    encoder->bits = (struct bits){out, 0, 0};
    encoder->seen = encoder->seen_short = 0;
    expect(encoder, encoder->static_literal_lengths, encoder->static_distance_lengths);
    for (size_t index = 0; index < count; index++) {
        const uint32_t end = index + 1 < count ? starts[index + 1] : (uint32_t)size, length = end - starts[index];
        uint8_t *const member = encoder->bits.to;
        memcpy(member, gzip_head, GZIP_HEAD);
        encoder->bits.to += GZIP_HEAD;
        encode(encoder, data + starts[index], length, &cursor);
        store64(encoder->bits.to, checksums[index] | (uint64_t)length << 32);
        encoder->bits.to += GZIP_TAIL;
        sizes[index] = (uint32_t)(encoder->bits.to - member);
    }
    return (size_t)(encoder->bits.to - out);
}
