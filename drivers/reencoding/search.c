/* Matches of our own, beside those of the source. */
#include "search.h"

enum {
    SEARCH_DEPTH = 16, /* earlier places looked at */
    GOOD_MATCH = 32, /* from which on the next byte is not tried for a better one */
    FAR_FOR_SHORT = 4096, /* from where on a match of three bytes costs more than three literals */
    NOWHERE = 0xffff,
};

void begin_search(struct search *search) {
    search->hashed = 0;
    memset(search->recent, 0, sizeof search->recent);
}

/* The longest match at `at`, less than MIN_MATCH if there is none; there is none behind a member's first WINDOW_SIZE bytes. */
static uint32_t find(struct search *search, const uint8_t *data, uint32_t size, uint32_t at, uint32_t *distance) {
    const uint32_t most = size - at < MAX_MATCH ? size - at : MAX_MATCH;
    if (most <= MIN_MATCH || at >= WINDOW_SIZE) return 0;
    if (!search->hashed) memset(search->head, 0xff, sizeof search->head);
    for (uint32_t place = search->hashed; place < at; place++) {
        uint16_t *const last = &search->head[hash(data + place)];
        search->chain[place] = *last;
        *last = (uint16_t)place;
    }
    search->hashed = at;
    uint32_t best = MIN_MATCH - 1, place = search->head[hash(data + at)];
    for (int depth = 0; depth < SEARCH_DEPTH && place != NOWHERE && best < most; depth++) {
        if (data[place + best] == data[at + best]) {
            const uint32_t length = equal(data + place, data + at, most, size - at);
            if (length > best && (length > MIN_MATCH || at - place < FAR_FOR_SHORT)) {
                best = length;
                *distance = at - place;
            }
        }
        place = search->chain[place];
    }
    return best;
}

uint32_t find_matches(struct search *search, struct block *block, const uint8_t *data, uint32_t size, uint32_t at,
                      uint32_t until) {
    uint32_t distance = 0, length = find(search, data, size, at, &distance);
    for (;;) {
        uint32_t next_distance = 0, next = 0;
        if (length < GOOD_MATCH && at + 1 < until) next = find(search, data, size, at + 1, &next_distance);
        const int taken = length >= MIN_MATCH && next <= length && pays(block, data + at, length, distance);
        at = taken ? add_match(block, at, length, distance) : add_literals(block, data, at, 1);
        if (at >= block->check_at) check_block(block, data, size, at);
        if (at >= until) return at;
        if (taken) {
            length = find(search, data, size, at, &distance);
        } else {
            length = next;
            distance = next_distance;
        }
    }
}

void find_short_matches(struct search *search, struct block *block, const uint8_t *data, uint32_t size, uint32_t at,
                        uint32_t count) {
    const uint32_t until = at + count;
    while (at < until) {
        uint32_t length = 0, distance = 0;
        if (at + MIN_MATCH < size) {
            uint32_t *const recent = &search->recent[hash(data + at)];
            distance = at + 1 - *recent;
            if (*recent && distance < FAR_FOR_SHORT) {
                const uint32_t most = until - at < MAX_MATCH ? until - at : MAX_MATCH;
                length = equal(data + at - distance, data + at, most, size - at);
            }
            *recent = at + 1;
        }
        if (length >= MIN_MATCH && pays(block, data + at, length, distance)) {
            at = add_match(block, at, length, distance);
        } else {
            at = add_literals(block, data, at, 1);
        }
    }
}
