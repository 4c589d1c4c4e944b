/* Gzip members from matches that are known. */
#include <stdlib.h>

#include "block.h"
#include "deflate.h"
#include "reencoding.h"
#include "search.h"

enum {
    GZIP_HEAD = 10,
    GZIP_TAIL = 8,
    JUDGED = 2000, /* matches after which it is known whether the source has some of three bytes */
};

/* Where the caller's matches stand: what is left of `*next`. */
struct cursor {
    const struct match *next, *end;
    uint64_t literals;
    uint32_t length;
};

struct encoder {
    struct block block;
    struct search search;
    uint32_t seen, seen_short; /* of the caller's matches, while it is not known whether it has short ones */
};

struct encoder *reencoding_encoder_new(void) {
    struct encoder *encoder = malloc(sizeof *encoder);
    if (encoder) make_block_tables(&encoder->block);
    return encoder;
}

void reencoding_encoder_free(struct encoder *encoder) { free(encoder); }

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
    struct block *const block = &encoder->block;
    struct search *const search = &encoder->search;
    begin_block(block, 0);
    begin_search(search);
    uint32_t at = 0;
    while (at < size) {
        next_match(cursor);
        if (cursor->literals) {
            const uint32_t most = (block->check_at < size ? block->check_at : size) - at;
            const uint32_t count = cursor->literals < most ? (uint32_t)cursor->literals : most;
            if (encoder->seen < JUDGED || encoder->seen_short < JUDGED / 100) {
                find_short_matches(search, block, data, size, at, count);
                at += count;
            } else {
                at = add_literals(block, data, at, count);
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
                if (at + MIN_MATCH < size) search->recent[hash(data + at)] = at + 1;
                if (pays(block, data + at, length, distance)) at = add_match(block, at, length, distance);
                else at = add_literals(block, data, at, length);
                cursor->length -= length;
            } else {
                /* It reaches back beyond the member, at least at first, or is none of this data. */
                uint32_t lost = distance > at && distance - at < length ? distance - at : length;
                if (length - lost < MIN_MATCH) lost = length;
                const uint32_t reached = find_matches(search, block, data, size, at, at + lost);
                pass(cursor, reached - at);
                at = reached;
            }
        }
        if (at >= block->check_at) check_block(block, data, size, at);
    }
    end_block(block, data, size, 1);
    align(&block->bits);
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
    struct bits *const bits = &encoder->block.bits;
    first_block(&encoder->block, out);
    encoder->seen = encoder->seen_short = 0;
    for (size_t index = 0; index < count; index++) {
        const uint32_t end = index + 1 < count ? starts[index + 1] : (uint32_t)size, length = end - starts[index];
        uint8_t *const member = bits->to;
        memcpy(member, gzip_head, GZIP_HEAD);
        bits->to += GZIP_HEAD;
        encode(encoder, data + starts[index], length, &cursor);
        store64(bits->to, checksums[index] | (uint64_t)length << 32);
        bits->to += GZIP_TAIL;
        sizes[index] = (uint32_t)(bits->to - member);
    }
    return (size_t)(bits->to - out);
}
