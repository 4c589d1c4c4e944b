#include "huffman.h"

#include <string.h>

#include "deflate.h"

enum { SYMBOL_BITS = 16 };

static void sort(uint64_t *keys, int count) {
    static const int gaps[] = {132, 57, 23, 10, 4, 1};
    for (unsigned which = 0; which < sizeof gaps / sizeof *gaps; which++) {
        const int gap = gaps[which];
        for (int index = gap; index < count; index++) {
            const uint64_t key = keys[index];
            int at = index;
            for (; at >= gap && keys[at - gap] > key; at -= gap) keys[at] = keys[at - gap];
            keys[at] = key;
        }
    }
}

/* How many symbols get a code of each length, from their counts in ascending order (Moffat and Katajainen, "In-Place Calculation of
 * Minimum-Redundancy Codes", 1995): `weights` become the tree's inner nodes, their parents, their depths. */
static void depths(uint32_t *weights, int count, int max_bits, int *of_depth) {
    int leaf = 2, root = 0;
    weights[0] += weights[1];
    for (int next = 1; next < count - 1; next++) {
        if (leaf >= count || weights[root] < weights[leaf]) {
            weights[next] = weights[root];
            weights[root++] = (uint32_t)next;
        } else {
            weights[next] = weights[leaf++];
        }
        if (leaf >= count || (root < next && weights[root] < weights[leaf])) {
            weights[next] += weights[root];
            weights[root++] = (uint32_t)next;
        } else {
            weights[next] += weights[leaf++];
        }
    }
    weights[count - 2] = 0;
    for (int node = count - 3; node >= 0; node--) weights[node] = weights[weights[node]] + 1;
    int free_nodes = 1, inner = 0, depth = 0, node = count - 2;
    while (free_nodes > 0) {
        while (node >= 0 && weights[node] == (uint32_t)depth) {
            inner++;
            node--;
        }
        of_depth[depth < max_bits ? depth : max_bits] += free_nodes - inner;
        free_nodes = 2 * inner;
        inner = 0;
        depth++;
    }
}

/* Codes that the limit made too short of room: lengthen others until all fit (Kraft's sum is one). */
static void fit(int *of_depth, int max_bits) {
    int64_t sum = 0;
    for (int bits = 1; bits <= max_bits; bits++) sum += (int64_t)of_depth[bits] << (max_bits - bits);
    for (const int64_t room = INT64_C(1) << max_bits; sum > room; sum--) {
        int bits = max_bits - 1;
        while (!of_depth[bits]) bits--;
        of_depth[bits]--;
        of_depth[bits + 1] += 2;
        of_depth[max_bits]--;
    }
}

void huffman_lengths(const uint32_t *counts, int symbols, int max_bits, uint8_t *lengths) {
    uint64_t keys[STATIC_LITERAL_SYMBOLS];
    uint32_t weights[STATIC_LITERAL_SYMBOLS];
    int of_depth[MAX_CODE_BITS + 1] = {0};
    int used = 0;
    memset(lengths, 0, (size_t)symbols);
    for (int symbol = 0; symbol < symbols; symbol++)
        if (counts[symbol]) keys[used++] = (uint64_t)counts[symbol] << SYMBOL_BITS | (uint64_t)symbol;
    if (used < 2) {
        const int only = used ? (int)(keys[0] & 0xffff) : 0;
        lengths[only] = lengths[only ? 0 : 1] = 1;
        return;
    }
    sort(keys, used);
    for (int index = 0; index < used; index++) weights[index] = (uint32_t)(keys[index] >> SYMBOL_BITS);
    depths(weights, used, max_bits, of_depth);
    fit(of_depth, max_bits);
    int next = 0;
    for (int bits = max_bits; bits > 0; bits--)
        for (int index = 0; index < of_depth[bits]; index++) lengths[keys[next++] & 0xffff] = (uint8_t)bits;
}
