/* What must hold of drivers/reencoding whatever bytes come: inflate judges and gives as zlib does, however the stream is fed, and
 * members hold the data whatever they are told of its matches.
 *
 * An input: a byte that says how the stream is fed, one that says where members begin, raw deflate. LLVMFuzzerTestOneInput is
 * what libFuzzer calls; `main` (left out with -DLIBFUZZER) takes a file of inputs, each behind its size (u32, little endian).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "../../drivers/reencoding/reencoding.h"

enum { MOST_OUTPUT = 9 << 17, MOST_MEMBERS = 64, MOST_FEEDS = 500 };

#define MUST(condition)                                                    \
    do {                                                                   \
        if (!(condition)) {                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                       \
        }                                                                  \
    } while (0)

struct inflated {
    uint8_t *data;
    size_t size;
    struct match *matches;
    size_t match_count;
    struct block_end *ends; /* of the whole stream */
    size_t end_count;
    size_t used;
    int status;
    int cut; /* more than MOST_OUTPUT came: the rest was not asked for */
};

static void *copied(const void *from, size_t size) {
    void *copy = malloc(size); /* of just this size, so that the address sanitizer sees what is read behind it */
    MUST(copy);
    if (size) memcpy(copy, from, size);
    return copy;
}

static void *appended(void *to, size_t at, const void *from, size_t size) {
    if (!size) return to;
    to = realloc(to, at + size);
    MUST(to);
    memcpy((uint8_t *)to + at, from, size);
    return to;
}

static void forget(struct inflated *inflated) {
    free(inflated->data);
    free(inflated->matches);
    free(inflated->ends);
}

/* The records describe the piece from its first byte to its last. */
static void check_matches(const struct match *matches, size_t count, const uint8_t *whole, size_t at, size_t end) {
    for (const struct match *match = matches; match < matches + count; match++) {
        MUST(match->literals <= end - at);
        at += match->literals;
        if (!match->length) continue;
        MUST(match->length >= 3 && match->length <= 258 && match->length <= end - at);
        MUST(match->distance && match->distance <= at);
        for (size_t copy = 0; copy < match->length; copy++, at++) MUST(whole[at] == whole[at - match->distance]);
    }
    MUST(at == end);
}

static struct inflated ours(struct inflater *inflater, const uint8_t *data, size_t size, size_t feed) {
    struct inflated all = {.status = INFLATE_NEEDS_INPUT};
    size_t given = feed < size ? feed : size;
    reencoding_inflater_restart(inflater);
    for (;;) {
        size_t used, piece_size, count, ends_count;
        uint8_t *input = copied(data + all.used, given - all.used);
        all.status = reencoding_inflate(inflater, input, given - all.used, given == size, &used);
        free(input);
        MUST(used <= given - all.used);
        const struct block_end *ends = reencoding_block_ends(inflater, &ends_count);
        for (size_t index = 0; all.status >= 0 && index < ends_count; index++) {
            MUST(ends[index].used <= used && ends[index].bits < 8);
            struct block_end end = {all.used + ends[index].used, (uint32_t)all.size + ends[index].size, ends[index].bits,
                                    ends[index].final};
            all.ends = appended(all.ends, all.end_count++ * sizeof end, &end, sizeof end);
        }
        all.used += used;
        if (all.status < 0) {
            MUST(reencoding_inflate(inflater, data, size, 1, &used) == all.status && !used);
            reencoding_piece(inflater, &piece_size);
            reencoding_matches(inflater, &count);
            MUST(!piece_size && !count);
            break;
        }
        const uint8_t *piece = reencoding_piece(inflater, &piece_size);
        const struct match *matches = reencoding_matches(inflater, &count);
        MUST(piece_size <= 1 << 20 && !piece_size == !count);
        all.data = appended(all.data, all.size, piece, piece_size);
        check_matches(matches, count, all.data, all.size, all.size + piece_size);
        all.size += piece_size;
        all.matches = appended(all.matches, all.match_count * sizeof *matches, matches, count * sizeof *matches);
        all.match_count += count;
        all.cut = all.size > MOST_OUTPUT;
        if (all.cut || all.status == INFLATE_END) break;
        if (all.status == INFLATE_NEEDS_INPUT) {
            MUST(given < size);
            given = size - given > feed ? given + feed : size;
        }
    }
    return all;
}

/* Sound and damaged streams are the same to zlib, and so are the bytes and the end of sound ones. */
static void check_against_zlib(const struct inflated *all, const uint8_t *data, size_t size) {
    static uint8_t expected[MOST_OUTPUT + (2 << 20)];
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)size, .next_out = expected};
    stream.avail_out = sizeof expected;
    MUST(inflateInit2(&stream, -15) == Z_OK);
    int status;
    size_t ends = 0;
    do {
        status = inflate(&stream, Z_BLOCK);
        if (status < 0 || !(stream.data_type & 128) || ends == all->end_count) continue;
        const struct block_end end = all->ends[ends++];
        MUST(end.used == stream.total_in && end.size == stream.total_out && end.bits == (stream.data_type & 7));
        MUST(!end.final == !(stream.data_type & 64));
    } while (status == Z_OK);
    MUST(ends == all->end_count);
    if (!all->cut) MUST((status == Z_STREAM_END) == (all->status == INFLATE_END));
    if (all->status == INFLATE_END) MUST(all->size == stream.total_out && all->used == stream.total_in);
    MUST(all->size <= stream.total_out && (!all->size || !memcmp(all->data, expected, all->size)));
    inflateEnd(&stream);
}

/* Gives the members' bytes, which the caller frees. */
static uint8_t *checked_members(struct encoder *encoder, const uint8_t *data, size_t size, const uint32_t *starts,
                                size_t count, const struct match *matches, size_t match_count, int64_t skip,
                                size_t *written) {
    uint32_t checksums[MOST_MEMBERS], sizes[MOST_MEMBERS];
    for (size_t index = 0; index < count; index++) {
        const size_t end = index + 1 < count ? starts[index + 1] : size;
        checksums[index] = (uint32_t)crc32(0, data + starts[index], (uInt)(end - starts[index]));
    }
    uint8_t *out = malloc(reencoding_bound(size, count)), *back = malloc(size + 1);
    MUST(out && back);
    *written = reencoding_members(encoder, data, size, starts, count, matches, match_count, skip, checksums, out, sizes);
    size_t at = 0;
    for (size_t index = 0; index < count; index++) {
        const size_t end = index + 1 < count ? starts[index + 1] : size, length = end - starts[index];
        z_stream stream = {.next_in = out + at, .avail_in = sizes[index], .next_out = back, .avail_out = (uInt)length + 1};
        MUST(inflateInit2(&stream, 31) == Z_OK);
        MUST(inflate(&stream, Z_FINISH) == Z_STREAM_END && !stream.avail_in);
        MUST(stream.total_out == length && !memcmp(back, data + starts[index], length));
        inflateEnd(&stream);
        at += sizes[index];
    }
    MUST(at == *written);
    free(back);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_size) {
    static struct inflater *inflater;
    static struct encoder *encoder;
    if (!inflater) inflater = reencoding_inflater_new();
    if (!encoder) encoder = reencoding_encoder_new();
    MUST(inflater && encoder);
    if (input_size < 3) return 0;
    const uint8_t feeding = input[0], cutting = input[1], *const deflated = input + 2;
    const size_t size = input_size - 2;
    const size_t feed = 1 + feeding * (size_t)feeding / 8 + size / MOST_FEEDS;

    struct inflated whole = ours(inflater, deflated, size, size), fed = ours(inflater, deflated, size, feed);
    check_against_zlib(&whole, deflated, size);
    const int sound = !whole.cut && !fed.cut && whole.status == INFLATE_END;
    MUST(whole.cut || fed.cut || (whole.status == INFLATE_END) == (fed.status == INFLATE_END));
    if (sound) {
        MUST(whole.size == fed.size && whole.used == fed.used && whole.end_count == fed.end_count);
        MUST(!memcmp(whole.ends, fed.ends, whole.end_count * sizeof *whole.ends));
    }
    const size_t common = whole.size < fed.size ? whole.size : fed.size;
    if (common) {
        MUST(!memcmp(whole.data, fed.data, common));
        uint32_t starts[MOST_MEMBERS] = {0};
        const uint32_t step = 1 + (uint32_t)common / (1 + cutting % MOST_MEMBERS);
        size_t count = 1;
        for (; count < MOST_MEMBERS && starts[count - 1] + step <= common; count++) starts[count] = starts[count - 1] + step;
        uint8_t *data = copied(whole.data, common);
        size_t one_size, other_size;
        uint8_t *one = checked_members(encoder, data, common, starts, count, whole.matches, whole.match_count, 0, &one_size);
        uint8_t *other = checked_members(encoder, data, common, starts, count, fed.matches, fed.match_count, 0, &other_size);
        if (sound) MUST(one_size == other_size && !memcmp(one, other, one_size));
        free(one);
        free(other);
        struct match *lies = copied(deflated, size / sizeof *lies * sizeof *lies);
        for (size_t index = 0; cutting % 2 && index < size / sizeof *lies; index++) lies[index].literals &= 0xff;
        const int64_t skip = feeding < 128 ? (int64_t)feeding * cutting : INT64_MIN >> (cutting & 63);
        free(checked_members(encoder, data, common, starts, count, lies, size / sizeof *lies, skip, &other_size));
        free(checked_members(encoder, data, common, starts, count, whole.matches, whole.match_count, skip, &other_size));
        free(lies);
        free(data);
    }
    forget(&whole);
    forget(&fed);
    return 0;
}

#ifndef LIBFUZZER
int main(int count, char **arguments) {
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    uint8_t head[4];
    MUST(file);
    while (fread(head, 1, sizeof head, file) == sizeof head) {
        const size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        uint8_t *input = malloc(size);
        MUST(input && fread(input, 1, size, file) == size);
        LLVMFuzzerTestOneInput(input, size);
        free(input);
    }
    MUST(feof(file));
    fclose(file);
    return 0;
}
#endif
