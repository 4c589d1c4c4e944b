/* Gzip members made of the matches that a layer's own compressor found.
 *
 * Most of what deflate costs is the search for matches. A gzip layer carries the result of such a search: inflating it gives the
 * matches beside the bytes, and a member of the converted layer needs only new Huffman codes, and a search for what
 * reached back beyond the member's beginning.
 *
 * Nothing here keeps global state, does I/O or calls Python. An inflater serves one stream, one call at a time; members are made from any
 * number of threads. The input of `reencoding_inflate` may be hostile. That of `reencoding_members` may not (its sizes and pointers
 * are the caller's), except for the matches: each is compared with the data before it is used.
 */
#ifndef REENCODING_H
#define REENCODING_H

#include <stddef.h>
#include <stdint.h>

/* `literals` bytes as they are, then a copy of `length` bytes from `distance` back; length 0: no copy. */
struct match {
    uint32_t literals;
    uint16_t length;
    uint16_t distance;
};

enum {
    INFLATE_NEEDS_INPUT = 0,
    INFLATE_OUTPUT_FULL = 1,
    INFLATE_END = 2, /* of the deflate stream */
    INFLATE_BAD_BLOCK = -1,
    INFLATE_BAD_STORED = -2,
    INFLATE_BAD_CODES = -3,
    INFLATE_BAD_SYMBOL = -4,
    INFLATE_BAD_DISTANCE = -5,
    INFLATE_TRUNCATED = -6,
};

struct inflater;

/* NULL when memory is out. */
struct inflater *reencoding_inflater_new(void);
void reencoding_inflater_free(struct inflater *inflater);

/* Begin another deflate stream, whose matches do not reach into the one before. */
void reencoding_inflater_restart(struct inflater *inflater);

/* Inflate raw deflate (RFC 1951) from in[0..in_size), until it is used up, the piece is full, or the stream ends.
 * INFLATE_OUTPUT_FULL, and an empty piece, may come of a stream of nearly empty blocks, too.
 *
 * `last` says that no input follows. Otherwise up to 600 bytes may be left unused, to be given again before the next ones.
 * `*used` says how many were used; a stream that ends gives back the whole bytes behind its last bit.
 * The piece and its matches, which describe it from its first byte to its last, are valid until the next call; with an error there is
 * nothing to be used. Every later call gives the error again, until a restart.
 */
int reencoding_inflate(struct inflater *inflater, const uint8_t *in, size_t in_size, int last, size_t *used);

/* Of the last call's piece. */
const uint8_t *reencoding_piece(const struct inflater *inflater, size_t *size);
const struct match *reencoding_matches(const struct inflater *inflater, size_t *count);

/* Where a block ends: behind `used` bytes of the call's input, of the last of which `bits` belong to what follows, and `size` bytes of
 * the piece. */
struct block_end {
    uint64_t used;
    uint32_t size;
    uint16_t bits;
    uint16_t final; /* the stream ends, too */
};

/* All that the last call passed, in order. */
const struct block_end *reencoding_block_ends(const struct inflater *inflater, size_t *count);

struct encoder;

/* NULL when memory is out. One serves any number of calls, one at a time. */
struct encoder *reencoding_encoder_new(void);
void reencoding_encoder_free(struct encoder *encoder);

/* Bytes that `reencoding_members` may write for `size` bytes in `count` members. */
size_t reencoding_bound(size_t size, size_t count);

/* Make gzip members (RFC 1952) of data[0..size), one from each of starts[0..count) to the next; starts[0] is 0.
 *
 * `matches` describe a stream of which data[i] is byte `skip + i`. What they do not cover, or describe wrongly, is coded without
 * them. `checksums` are the members' CRC-32. Writes each member's size to `sizes`, the members to `out`, which has room for
 * `reencoding_bound` bytes. Gives the bytes written.
 */
size_t reencoding_members(struct encoder *encoder, const uint8_t *data, size_t size, const uint32_t *starts, size_t count,
                          const struct match *matches, size_t match_count, int64_t skip, const uint32_t *checksums,
                          uint8_t *out, uint32_t *sizes);

#endif
