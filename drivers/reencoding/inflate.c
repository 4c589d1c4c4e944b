/* Inflate (RFC 1951) that keeps the matches. */
#include <stdlib.h>

#include "deflate.h"
#include "reencoding.h"

#define MASK(count) ((UINT64_C(1) << (count)) - 1)

enum {
    PIECE_SIZE = 1 << 20,
    /* A step of the loop over symbols writes three literals, or two and a match, whose copy overshoots by seven. */
    STEP_OUTPUT = MAX_MATCH + 3,
    SLACK = 16,
    /* It reads eight bytes twice, the second time seven further on. */
    STEP_INPUT = 32,
    /* The longest head of a dynamic block: 14 bits, 19 lengths of 3 bits, 316 of 7 and 7 more. */
    HEAD_INPUT = 600,
    LITERAL_TABLE_BITS = 11,
    DISTANCE_TABLE_BITS = 9,
    LENGTHS_TABLE_BITS = 7,
    BLOCK_ENDS = 1024, /* of a call */
    /* A complete code has two symbols at least under each prefix that needs a table of its own. */
    LITERAL_TABLE_SIZE = (1 << LITERAL_TABLE_BITS) + (STATIC_LITERAL_SYMBOLS / 2 << (MAX_CODE_BITS - LITERAL_TABLE_BITS)),
    DISTANCE_TABLE_SIZE = (1 << DISTANCE_TABLE_BITS) + (STATIC_DISTANCE_SYMBOLS / 2 << (MAX_CODE_BITS - DISTANCE_TABLE_BITS)),
};

/* An entry of a decoding table: bits 0 to 7 how many bits it takes, 8 to 12 how many extra bits follow or the next table is
 * indexed by, 16 to 30 the literal, the base to which the extra bits are added, or where the next table begins. */
#define LITERAL UINT32_C(0x80000000)
#define SPECIAL UINT32_C(0x8000) /* another table, or one of these: */
#define END UINT32_C(0x4000)
#define INVALID UINT32_C(0x2000)
#define TAKES(entry) ((entry) & 0xff)
#define EXTRA(entry) ((entry) >> 8 & 0x1f)
#define VALUE(entry) ((entry) >> 16 & 0x7fff)

enum phase { BLOCK_HEAD, STORED, SYMBOLS, ENDED };

struct inflater {
    uint64_t bits; /* read and not used yet */
    unsigned bit_count; /* less than 8 between calls */
    enum phase phase;
    int damage; /* the error that was met: all later calls give it again */
    int final_block;
    int static_tables; /* are what the tables hold */
    uint32_t stored_left;
    size_t reach; /* bytes before the piece that matches may reach into */
    size_t size; /* of the piece */
    size_t match_count;
    size_t end_count;
    uint32_t literal_table[LITERAL_TABLE_SIZE];
    uint32_t distance_table[DISTANCE_TABLE_SIZE];
    struct match matches[PIECE_SIZE / MIN_MATCH + 2];
    struct block_end ends[BLOCK_ENDS];
    uint8_t output[WINDOW_SIZE + PIECE_SIZE + SLACK]; /* the window, the piece */
};

struct inflater *reencoding_inflater_new(void) {
    struct inflater *inflater = malloc(sizeof *inflater);
    if (inflater) {
        inflater->size = 0;
        inflater->match_count = 0;
        inflater->end_count = 0;
        reencoding_inflater_restart(inflater);
    }
    return inflater;
}

void reencoding_inflater_free(struct inflater *inflater) { free(inflater); }

void reencoding_inflater_restart(struct inflater *inflater) {
    inflater->bits = 0;
    inflater->bit_count = 0;
    inflater->phase = BLOCK_HEAD;
    inflater->damage = 0;
    inflater->final_block = 0;
    inflater->static_tables = 0;
    inflater->stored_left = 0;
    inflater->reach = 0;
    inflater->size = 0;
}

const uint8_t *reencoding_piece(const struct inflater *inflater, size_t *size) {
    *size = inflater->size;
    return inflater->output + WINDOW_SIZE;
}

const struct match *reencoding_matches(const struct inflater *inflater, size_t *count) {
    *count = inflater->match_count;
    return inflater->matches;
}

const struct block_end *reencoding_block_ends(const struct inflater *inflater, size_t *count) {
    *count = inflater->end_count;
    return inflater->ends;
}

static uint32_t literal_entry(int symbol) {
    if (symbol < END_OF_BLOCK) return LITERAL | (uint32_t)symbol << 16;
    if (symbol == END_OF_BLOCK) return SPECIAL | END;
    if (symbol >= LITERAL_SYMBOLS) return SPECIAL | INVALID;
    return (uint32_t)LENGTH_BASE[symbol - FIRST_LENGTH] << 16 | (uint32_t)LENGTH_EXTRA[symbol - FIRST_LENGTH] << 8;
}

static uint32_t distance_entry(int symbol) {
    if (symbol >= DISTANCE_SYMBOLS) return SPECIAL | INVALID;
    return (uint32_t)DISTANCE_BASE[symbol] << 16 | (uint32_t)DISTANCE_EXTRA[symbol] << 8;
}

static uint32_t lengths_entry(int symbol) { return (uint32_t)symbol << 16; }

/* Make a decoding table indexed by `table_bits` bits, with tables for longer codes behind it.
 *
 * As zlib does it, a code must be complete, but for one of a single symbol of one bit (`single`) or of none, whose
 * other bit patterns are invalid.
 */
static int make_table(uint32_t *table, int table_bits, const uint8_t *lengths, int symbols, int single,
                      uint32_t (*entry_of)(int)) {
    uint16_t codes[STATIC_LITERAL_SYMBOLS];
    uint8_t longest[1 << LITERAL_TABLE_BITS] = {0}; /* bits beyond `table_bits`, of the codes under each prefix */
    int used = 0, left = 1, longest_code = 0;
    int count[MAX_CODE_BITS + 1] = {0};
    for (int symbol = 0; symbol < symbols; symbol++) count[lengths[symbol]]++;
    for (int bits = 1; bits <= MAX_CODE_BITS; bits++) {
        left = 2 * left - count[bits];
        if (left < 0) return INFLATE_BAD_CODES;
        used += count[bits];
        if (count[bits]) longest_code = bits;
    }
    if (left > 0 && used && !(single && longest_code == 1)) return INFLATE_BAD_CODES;

    assign_codes(lengths, symbols, codes);
    const uint32_t size = UINT32_C(1) << table_bits;
    for (uint32_t index = 0; left && index < size; index++) table[index] = SPECIAL | INVALID;
    for (int symbol = 0; symbol < symbols && longest_code > table_bits; symbol++) {
        const int beyond = lengths[symbol] - table_bits;
        uint8_t *bits = &longest[codes[symbol] & (size - 1)];
        if (beyond > *bits) *bits = (uint8_t)beyond;
    }
    uint32_t next = size;
    for (uint32_t prefix = 0; longest_code > table_bits && prefix < size; prefix++) {
        if (!longest[prefix]) continue;
        table[prefix] = SPECIAL | next << 16 | (uint32_t)longest[prefix] << 8 | (uint32_t)table_bits;
        next += UINT32_C(1) << longest[prefix];
    }
    for (int symbol = 0; symbol < symbols; symbol++) {
        const int bits = lengths[symbol], beyond = bits - table_bits;
        if (!bits) continue;
        if (beyond <= 0) {
            const uint32_t entry = entry_of(symbol) | (uint32_t)bits;
            for (uint32_t index = codes[symbol]; index < size; index += UINT32_C(1) << bits) table[index] = entry;
        } else {
            const uint32_t prefix = codes[symbol] & (size - 1), entry = entry_of(symbol) | (uint32_t)beyond;
            uint32_t *own = table + VALUE(table[prefix]);
            for (uint32_t index = codes[symbol] >> table_bits; index < UINT32_C(1) << longest[prefix];
                 index += UINT32_C(1) << beyond)
                own[index] = entry;
        }
    }
    return 0;
}

/* The bits of a step in local variables, so that they stay in registers. */
#define REFILL()                               \
    do {                                       \
        bits |= load64(in) << bit_count;       \
        in += (63 - bit_count) >> 3;           \
        bit_count |= 56;                       \
    } while (0)
#define DROP(count)               \
    do {                          \
        bits >>= (count);         \
        bit_count -= (unsigned)(count); \
    } while (0)
/* Whole bytes that were read ahead go back to the input. */
#define GIVE_BACK()                    \
    do {                               \
        in -= bit_count >> 3;          \
        bit_count &= 7;                \
        bits &= MASK(bit_count);       \
    } while (0)

/* The code lengths of a dynamic block (3.2.7) and the tables made of them; `*from` has HEAD_INPUT bytes. */
static int dynamic_head(struct inflater *inflater, const uint8_t **from) {
    const uint8_t *in = *from;
    uint64_t bits = inflater->bits;
    unsigned bit_count = inflater->bit_count;
    uint8_t lengths[LITERAL_SYMBOLS + DISTANCE_SYMBOLS + 138];
    uint8_t own[LENGTHS_SYMBOLS] = {0};
    uint32_t table[1 << LENGTHS_TABLE_BITS];

    REFILL();
    const int literals = (int)(bits & MASK(5)) + 257;
    DROP(5);
    const int distances = (int)(bits & MASK(5)) + 1;
    DROP(5);
    const int count = (int)(bits & MASK(4)) + 4;
    DROP(4);
    if (literals > LITERAL_SYMBOLS || distances > DISTANCE_SYMBOLS) return INFLATE_BAD_CODES;
    for (int index = 0; index < count; index++) {
        REFILL();
        own[LENGTHS_ORDER[index]] = (uint8_t)(bits & MASK(3));
        DROP(3);
    }
    if (make_table(table, LENGTHS_TABLE_BITS, own, LENGTHS_SYMBOLS, 0, lengths_entry)) return INFLATE_BAD_CODES;

    for (int index = 0; index < literals + distances;) {
        REFILL();
        const uint32_t entry = table[bits & MASK(LENGTHS_TABLE_BITS)];
        if (entry & SPECIAL) return INFLATE_BAD_CODES;
        DROP(TAKES(entry));
        const int symbol = (int)VALUE(entry);
        if (symbol < REPEAT_LAST) {
            lengths[index++] = (uint8_t)symbol;
            continue;
        }
        if (symbol == REPEAT_LAST && !index) return INFLATE_BAD_CODES;
        const int extra = symbol == REPEAT_LAST ? 2 : symbol == REPEAT_ZERO ? 3 : 7;
        const int times = (symbol == REPEAT_ZEROS ? 11 : 3) + (int)(bits & MASK(extra));
        DROP(extra);
        memset(lengths + index, symbol == REPEAT_LAST ? lengths[index - 1] : 0, (size_t)times);
        index += times;
        if (index > literals + distances) return INFLATE_BAD_CODES;
    }
    if (!lengths[END_OF_BLOCK]) return INFLATE_BAD_CODES;
    inflater->static_tables = 0;
    if (make_table(inflater->literal_table, LITERAL_TABLE_BITS, lengths, literals, 1, literal_entry) ||
        make_table(inflater->distance_table, DISTANCE_TABLE_BITS, lengths + literals, distances, 1, distance_entry))
        return INFLATE_BAD_CODES;
    GIVE_BACK();
    inflater->bits = bits;
    inflater->bit_count = bit_count;
    *from = in;
    return 0;
}

static void static_head(struct inflater *inflater) {
    uint8_t literals[STATIC_LITERAL_SYMBOLS], distances[STATIC_DISTANCE_SYMBOLS];
    if (inflater->static_tables) return;
    static_lengths(literals, distances);
    make_table(inflater->literal_table, LITERAL_TABLE_BITS, literals, STATIC_LITERAL_SYMBOLS, 1, literal_entry);
    make_table(inflater->distance_table, DISTANCE_TABLE_BITS, distances, STATIC_DISTANCE_SYMBOLS, 1, distance_entry);
    inflater->static_tables = 1;
}

/* A block's head (3.2.3); `*from` has HEAD_INPUT bytes. */
static int block_head(struct inflater *inflater, const uint8_t **from) {
    const uint8_t *in = *from;
    uint64_t bits = inflater->bits;
    unsigned bit_count = inflater->bit_count;
    int status = 0;

    REFILL();
    inflater->final_block = (int)(bits & 1);
    DROP(1);
    const int kind = (int)(bits & MASK(2));
    DROP(2);
    if (kind == STORED_BLOCK) DROP(bit_count & 7);
    GIVE_BACK();
    inflater->phase = SYMBOLS;
    if (kind == STORED_BLOCK) {
        const uint32_t size = in[0] | (uint32_t)in[1] << 8, complement = in[2] | (uint32_t)in[3] << 8;
        if ((size ^ complement) != MAX_STORED) return INFLATE_BAD_STORED;
        inflater->phase = STORED;
        inflater->stored_left = size;
        in += 4;
    } else if (kind == STATIC_BLOCK) {
        static_head(inflater);
    } else if (kind != DYNAMIC_BLOCK) {
        return INFLATE_BAD_BLOCK;
    }
    inflater->bits = bits;
    inflater->bit_count = bit_count;
    if (kind == DYNAMIC_BLOCK) status = dynamic_head(inflater, &in);
    *from = in;
    return status;
}

/* A copy inside the output; may write seven bytes more. */
static inline void copy_match(uint8_t *out, uint32_t distance, uint32_t length) {
    const uint8_t *from = out - distance, *const end = out + length;
    if (distance >= 8) {
        do {
            store64(out, load64(from));
            out += 8;
            from += 8;
        } while (out < end);
    } else if (distance == 1) {
        memset(out, *from, length);
    } else {
        do *out++ = *from++;
        while (out < end);
    }
}

/* Symbols while `*from` has STEP_INPUT bytes, the piece has room and the block goes on: 1 when it ended, 0 when not, or an error.
 *
 * `*written` is the piece's end, `*unmatched` where the literals begin that no match has told of.
 */
static int symbols(struct inflater *inflater, const uint8_t **from, const uint8_t *in_end, uint8_t **written,
                   uint8_t **unmatched) {
    const uint32_t *const literal_table = inflater->literal_table, *const distance_table = inflater->distance_table;
    const uint8_t *in = *from;
    uint64_t bits = inflater->bits;
    unsigned bit_count = inflater->bit_count;
    uint8_t *out = *written, *literals_from = *unmatched;
    uint8_t *const piece = inflater->output + WINDOW_SIZE, *const full = piece + PIECE_SIZE - STEP_OUTPUT;
    const uint8_t *const oldest = piece - inflater->reach;
    struct match *match = inflater->matches + inflater->match_count;
    int status = 0;

    while (in_end - in >= STEP_INPUT && out <= full) {
        REFILL();
        uint32_t entry = literal_table[bits & MASK(LITERAL_TABLE_BITS)];
        if (entry & LITERAL) {
            *out++ = (uint8_t)VALUE(entry);
            DROP(TAKES(entry));
            entry = literal_table[bits & MASK(LITERAL_TABLE_BITS)];
            if (entry & LITERAL) {
                *out++ = (uint8_t)VALUE(entry);
                DROP(TAKES(entry));
                entry = literal_table[bits & MASK(LITERAL_TABLE_BITS)];
                if (entry & LITERAL) {
                    *out++ = (uint8_t)VALUE(entry);
                    DROP(TAKES(entry));
                    continue;
                }
            }
            REFILL();
        }
        if ((entry & (SPECIAL | END | INVALID)) == SPECIAL) {
            DROP(TAKES(entry));
            entry = literal_table[VALUE(entry) + (bits & MASK(EXTRA(entry)))];
        }
        DROP(TAKES(entry));
        if (entry & LITERAL) {
            *out++ = (uint8_t)VALUE(entry);
            continue;
        }
        if (entry & SPECIAL) {
            status = entry & END ? 1 : INFLATE_BAD_SYMBOL;
            break;
        }
        const uint32_t length = VALUE(entry) + (uint32_t)(bits & MASK(EXTRA(entry)));
        DROP(EXTRA(entry));
        entry = distance_table[bits & MASK(DISTANCE_TABLE_BITS)];
        if ((entry & (SPECIAL | INVALID)) == SPECIAL) {
            DROP(TAKES(entry));
            entry = distance_table[VALUE(entry) + (bits & MASK(EXTRA(entry)))];
        }
        if (entry & SPECIAL) {
            status = INFLATE_BAD_SYMBOL;
            break;
        }
        DROP(TAKES(entry));
        const uint32_t distance = VALUE(entry) + (uint32_t)(bits & MASK(EXTRA(entry)));
        DROP(EXTRA(entry));
        if (distance > (size_t)(out - oldest)) {
            status = INFLATE_BAD_DISTANCE;
            break;
        }
        *match++ = (struct match){(uint32_t)(out - literals_from), (uint16_t)length, (uint16_t)distance};
        copy_match(out, distance, length);
        out += length;
        literals_from = out;
    }
    GIVE_BACK();
    inflater->bits = bits;
    inflater->bit_count = bit_count;
    inflater->match_count = (size_t)(match - inflater->matches);
    *from = in;
    *written = out;
    *unmatched = literals_from;
    return status;
}

/* `used` bytes of the call's input went before `*from`. */
static int inflate(struct inflater *inflater, const uint8_t **from, const uint8_t *in_end, size_t used) {
    const uint8_t *const in = *from;
    uint8_t *const piece = inflater->output + WINDOW_SIZE, *const end = piece + PIECE_SIZE;
    uint8_t *out = piece + inflater->size, *unmatched = out;
    int status = 0;

    /* What an earlier round of this call left unmatched stands as a run of literals of its own. */
    for (;;) {
        if (inflater->phase == ENDED) {
            status = INFLATE_END;
            break;
        }
        if (inflater->end_count == BLOCK_ENDS) {
            status = INFLATE_OUTPUT_FULL;
            break;
        }
        if (inflater->phase == BLOCK_HEAD) {
            if (in_end - *from < HEAD_INPUT) break;
            status = block_head(inflater, from);
            if (status) break;
        }
        int ended;
        if (inflater->phase == STORED) {
            size_t size = inflater->stored_left;
            if (size > (size_t)(in_end - *from)) size = (size_t)(in_end - *from);
            if (size > (size_t)(end - out)) size = (size_t)(end - out);
            memcpy(out, *from, size);
            *from += size;
            out += size;
            inflater->stored_left -= (uint32_t)size;
            ended = !inflater->stored_left;
        } else {
            ended = symbols(inflater, from, in_end, &out, &unmatched);
            if (ended < 0) {
                status = ended;
                break;
            }
        }
        if (ended) {
            inflater->phase = inflater->final_block ? ENDED : BLOCK_HEAD;
            inflater->ends[inflater->end_count++] =
                (struct block_end){used + (size_t)(*from - in), (uint32_t)(out - piece), (uint16_t)inflater->bit_count,
                                   (uint16_t)inflater->final_block};
        } else {
            const size_t step = inflater->phase == STORED ? 1 : STEP_OUTPUT;
            status = (size_t)(end - out) < step ? INFLATE_OUTPUT_FULL : INFLATE_NEEDS_INPUT;
            break;
        }
    }
    if (out > unmatched) inflater->matches[inflater->match_count++] = (struct match){(uint32_t)(out - unmatched), 0, 0};
    inflater->size = (size_t)(out - piece);
    return status;
}

int reencoding_inflate(struct inflater *inflater, const uint8_t *in, size_t in_size, int last, size_t *used) {
    const uint8_t *at = in;
    inflater->reach += inflater->size;
    if (inflater->reach > WINDOW_SIZE) inflater->reach = WINDOW_SIZE;
    if (inflater->size) memmove(inflater->output, inflater->output + inflater->size, WINDOW_SIZE);
    inflater->size = 0;
    inflater->match_count = 0;
    inflater->end_count = 0;
    *used = 0;
    if (inflater->damage) return inflater->damage;

    int status = inflate(inflater, &at, in + in_size, 0);
    *used = (size_t)(at - in);
    if (status < 0) return inflater->damage = status;
    if (status != INFLATE_NEEDS_INPUT || !last) return status;

    /* The end of the input, with enough behind it for steps that look ahead. */
    uint8_t tail[2 * HEAD_INPUT] = {0};
    const size_t left = in_size - *used;
    memcpy(tail, at, left);
    at = tail;
    status = inflate(inflater, &at, tail + left + HEAD_INPUT, *used);
    const size_t more = (size_t)(at - tail);
    *used += more <= left ? more : left;
    if (status == INFLATE_NEEDS_INPUT || (status >= 0 && more > left)) status = INFLATE_TRUNCATED;
    if (status < 0) inflater->damage = status;
    return status;
}
