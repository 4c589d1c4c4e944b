#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stdint.h>

/* Code lengths of at most `max_bits` for symbols that occur `counts` times each, as short in all as a Huffman code with that limit gets
 * by pushing its longest codes up. At least two symbols get a code, for some decoders want a complete one. */
void huffman_lengths(const uint32_t *counts, int symbols, int max_bits, uint8_t *lengths);

#endif
