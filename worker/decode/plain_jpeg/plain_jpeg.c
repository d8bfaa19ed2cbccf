/*
 * Makes the square of pixels that a model sees from a plain JPEG, in one pass, a few rows at a time:
 *
 *     bytes -> coefficients -> pixels of luma and chroma -> colours -> rows of the square
 *
 * The first step decodes the whole file. The other steps (inverse DCT, upsampling, colour conversion, resize) compute
 * only what the square shows.
 *
 * Nearly all photos are plain JPEGs: sequential, with Huffman codes, 8 bits, one scan, and grey or Y'CbCr with 4:2:0,
 * 4:2:2 or 4:4:4 sampling. For any other file, and for a file with any error, the code returns no square. The caller
 * then uses the libraries, which can say what is wrong. The pixels are equal, bit for bit, to those of libjpeg-turbo
 * (accurate DCT, triangle filter for chroma) and of torch's resize of bytes (bicubic, antialiased).
 *
 * Memory: the caller provides all of it; plain_jpeg_room returns the size. The values in headers are checked before
 * they are used. The bit reader does not check for the end of the scan at every read, but only after every minimum
 * coded unit (MCU), which has at most six blocks. Behind the scan there are more zeros than one MCU can consume.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DONE = 0, NOT_PLAIN = 1, NO_ROOM = 2 };

/* One direction of the resize. An output pixel is the sum of the pixels from `first` on, each times its weight. */
struct axis {
    const int32_t *first;   /* [outputs], from the edge of the image; the number of outputs is a multiple of 8 */
    const int32_t *counts;  /* [outputs], the number of pixels of each output */
    const int16_t *weights; /* [outputs][taps] */
    int32_t taps;           /* weights of each output, with padding: a multiple of 16 */
    int32_t precision;      /* number of bits after the weights' binary point */
    int32_t start, end;     /* range of all pixels that the outputs use */
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi2")))
#define INLINE static inline __attribute__((always_inline))
#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* -- Headers ----------------------------------------------------------------------------------------------------- */

/*
 * Side lengths of an image in pixels. libjpeg-turbo does not filter chroma of two columns or less, and it refuses
 * images above the maximum.
 */
enum { MIN_SIDE = 16, MAX_SIDE = 65500 };

/* Index in the block of each coefficient in zigzag order. */
static const uint8_t NATURAL[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
    6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
    39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/*
 * The same for two blocks side by side: 8 coefficients of the first block, then 8 of the second, for each row. A run
 * of zeros may end up to 15 places after the last coefficient.
 */
#define OF(i) ((i) / 8 * 16 + (i) % 8)
static const uint8_t PLACE[64 + 16] = {
    OF(0),  OF(1),  OF(8),  OF(16), OF(9),  OF(2),  OF(3),  OF(10), OF(17), OF(24), OF(32), OF(25), OF(18), OF(11),
    OF(4),  OF(5),  OF(12), OF(19), OF(26), OF(33), OF(40), OF(48), OF(41), OF(34), OF(27), OF(20), OF(13), OF(6),
    OF(7),  OF(14), OF(21), OF(28), OF(35), OF(42), OF(49), OF(56), OF(57), OF(50), OF(43), OF(36), OF(29), OF(22),
    OF(15), OF(23), OF(30), OF(37), OF(44), OF(51), OF(58), OF(59), OF(52), OF(45), OF(38), OF(31), OF(39), OF(46),
    OF(53), OF(60), OF(61), OF(54), OF(47), OF(55), OF(62), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63),
    OF(63), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63), OF(63)};

/*
 * A table is indexed by the next bits of the scan, AC_LOOK or DC_LOOK of them. An entry tells what these bits hold:
 *
 *     bytes   content
 *     0       number of bits to consume; 0 if they hold no whole code
 *     1       steps from the last value to this one: the run of zeros, and one. For DC: 0
 *     2       the same from the last value to the second one, or to the first if there is no second. BEYOND if the
 *             bits do not hold the whole value
 *     3       the number of bits of a value that the bits do not hold whole; or END if the block ends after the values
 *     4, 5    the value
 *     6, 7    the second value, for AC
 *
 * The end of a block without a value before it has one step and the value zero. A run of sixteen zeros has sixteen
 * steps and the value zero.
 */
enum { AC_LOOK = 11, DC_LOOK = 9, BEYOND = 128 };
static const uint64_t END = 1u << 31;

/* Number of entries whose bits fit in the 56 bits of one refill. */
enum { LOOKS = 5 };

INLINE int bits_of(uint64_t entry) { return (uint8_t)entry; }
INLINE unsigned steps_of(uint64_t entry) { return (uint8_t)(entry >> 8); }
INLINE unsigned all_steps_of(uint64_t entry) { return (uint8_t)(entry >> 16); }
INLINE int size_of(uint64_t entry) { return (uint8_t)(entry >> 24); }
INLINE int16_t value_of(uint64_t entry) { return (int16_t)(entry >> 32); }
INLINE int16_t second_value_of(uint64_t entry) { return (int16_t)(entry >> 48); }
INLINE int is_whole(uint64_t entry) { return all_steps_of(entry) != BEYOND; }

struct huffman {
    uint64_t entries[1 << AC_LOOK];
    int32_t last_code[17];   /* largest code of each length; -1 if there is no code of the length */
    int32_t first_index[17]; /* add it to a code of this length to get the index in `symbols` */
    uint8_t symbols[256];
    uint8_t counts[17];
    int is_known, is_prepared;
};

struct component {
    int id, across, down, quantization, dc, ac;
};

struct header {
    int width, height, components, restart_interval;
    int is_adobe, is_jfif;
    struct component component[3];
    int16_t quantization[4][64];
    int has_quantization[4];
    size_t scan; /* offset of the entropy-coded bytes */
};

INLINE int big_endian(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

static int read_quantization(struct header *header, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 65 || *at > 3) return NOT_PLAIN; /* a table of 16-bit values, or a table number above 3 */
        int16_t *table = header->quantization[*at];
        header->has_quantization[*at] = 1;
        for (int i = 0; i < 64; i++) table[NATURAL[i]] = at[1 + i];
        at += 65;
    }
    return DONE;
}

static int read_huffman(struct huffman tables[2][2], const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 17 || (*at & 0xEE)) return NOT_PLAIN;
        struct huffman *table = &tables[*at >> 4][*at & 1];
        int count = 0;
        table->counts[0] = 0;
        for (int length = 1; length <= 16; length++) count += table->counts[length] = at[length];
        if (count > 256 || end - at < 17 + count) return NOT_PLAIN;
        memset(table->symbols, 0, sizeof table->symbols);
        memcpy(table->symbols, at + 17, count);
        table->is_known = 1;
        at += 17 + count;
    }
    return DONE;
}

static int read_frame(struct header *header, const uint8_t *at, const uint8_t *end) {
    if (header->components || end - at < 6 || at[0] != 8) return NOT_PLAIN;
    header->height = big_endian(at + 1), header->width = big_endian(at + 3);
    if (header->height > MAX_SIDE || header->width > MAX_SIDE) return NOT_PLAIN;
    header->components = at[5];
    if (header->components != 1 && header->components != 3) return NOT_PLAIN;
    if (end - at != 6 + 3 * header->components) return NOT_PLAIN;
    for (int i = 0; i < header->components; i++, at += 3) {
        if (at[8] > 3) return NOT_PLAIN;
        header->component[i] = (struct component){at[6], at[7] >> 4, at[7] & 15, at[8], 0, 0};
    }
    struct component *luma = header->component;
    if (header->components == 1) { /* the sampling of a single component has no effect */
        if (!luma->across || !luma->down || luma->across > 4 || luma->down > 4) return NOT_PLAIN;
        luma->across = luma->down = 1;
        return DONE;
    }
    for (int i = 1; i < 3; i++)
        if (luma[i].across != 1 || luma[i].down != 1) return NOT_PLAIN;
    int is_usual = luma->across == 2 ? luma->down == 1 || luma->down == 2 : luma->across == 1 && luma->down == 1;
    return is_usual ? DONE : NOT_PLAIN;
}

static int read_scan(struct header *header, const uint8_t *at, const uint8_t *end) {
    int count = header->components;
    if (!count || end - at != 4 + 2 * count || at[0] != count) return NOT_PLAIN;
    for (int i = 0; i < count; i++) {
        struct component *component = &header->component[i];
        if (at[1 + 2 * i] != component->id || (at[2 + 2 * i] & 0xEE)) return NOT_PLAIN;
        if (!header->has_quantization[component->quantization]) return NOT_PLAIN;
        component->dc = at[2 + 2 * i] >> 4, component->ac = at[2 + 2 * i] & 1;
    }
    at += 1 + 2 * count;
    return at[0] == 0 && at[1] == 63 && at[2] == 0 ? DONE : NOT_PLAIN;
}

static int is_ycc(const struct header *header) {
    const struct component *component = header->component;
    if (header->components == 1 || header->is_jfif || header->is_adobe) return 1;
    return component[0].id == 1 && component[1].id == 2 && component[2].id == 3;
}

static int read_headers(struct header *header, struct huffman tables[2][2], const uint8_t *data, size_t length) {
    memset(header, 0, sizeof *header);
    for (int i = 0; i < 4; i++) tables[i >> 1][i & 1].is_known = tables[i >> 1][i & 1].is_prepared = 0;
    if (length < 4 || data[0] != 0xFF || data[1] != 0xD8) return NOT_PLAIN;
    for (size_t at = 2; at + 4 <= length;) {
        if (data[at] != 0xFF) return NOT_PLAIN;
        int marker = data[at + 1];
        if (marker == 0xFF) {
            at++;
            continue;
        }
        size_t size = big_endian(data + at + 2);
        if (size < 2 || length - at - 2 < size) return NOT_PLAIN;
        const uint8_t *body = data + at + 4, *end = data + at + 2 + size;
        at += 2 + size;
        int outcome = DONE;
        if (marker == 0xDB) {
            outcome = read_quantization(header, body, end);
        } else if (marker == 0xC4) {
            outcome = read_huffman(tables, body, end);
        } else if (marker == 0xC0 || marker == 0xC1) {
            outcome = read_frame(header, body, end);
        } else if (marker == 0xDD) {
            if (size != 4) return NOT_PLAIN;
            header->restart_interval = big_endian(body);
        } else if (marker == 0xDA) {
            header->scan = at;
            return read_scan(header, body, end) == DONE && is_ycc(header) ? DONE : NOT_PLAIN;
        } else if (marker == 0xE0) {
            if (size >= 16 && memcmp(body, "JFIF", 5) == 0) {
                if (body[5] != 1) return NOT_PLAIN; /* another version */
                header->is_jfif = 1;
            }
        } else if (marker == 0xEE) {
            if (size >= 14 && memcmp(body, "Adobe", 5) == 0) {
                if (body[11] != 1) return NOT_PLAIN; /* RGB, or CMYK */
                header->is_adobe = 1;
            }
        } else if (!((marker > 0xE0 && marker <= 0xEF) || marker == 0xFE)) {
            return NOT_PLAIN;
        }
        if (outcome != DONE) return outcome;
    }
    return NOT_PLAIN;
}

/* Return the value that `bits` extra bits stand for: EXTEND in the standard. */
INLINE int extended(int value, int bits) { return value - ((1 << bits) - 1) * (bits && !(value >> (bits - 1))); }

/* Return the entry of a code of `length` bits whose value is not whole. */
INLINE uint64_t bare_entry(int symbol, int length, int is_ac) {
    uint64_t steps = is_ac ? (symbol >> 4) + 1 : 0, size = is_ac ? symbol & 15 : symbol;
    return size << 24 | BEYOND << 16 | steps << 8 | length;
}

/* Return the entry of a code of `length` bits that are followed by `room` bits, with the value `rest`. */
INLINE uint64_t entry_of(int symbol, int length, int rest, int room, int is_ac) {
    if (is_ac && symbol == 0) return END | 1 << 16 | 1 << 8 | length;
    uint64_t entry = bare_entry(symbol, length, is_ac), steps = steps_of(entry);
    int size = size_of(entry);
    if (size > room || (is_ac && !size && steps < 16)) return entry;
    uint64_t value = (uint16_t)extended(rest >> (room - size), size);
    return value << 32 | steps << 16 | steps << 8 | (length + size);
}

/* Write to `pairs` the AC entries of `singles`, with a second value or the end of the block where the bits hold it. */
static void pair_values(const uint64_t singles[1 << AC_LOOK], uint64_t pairs[1 << AC_LOOK]) {
    for (int i = 0; i < 1 << AC_LOOK; i++) {
        uint64_t entry = singles[i];
        for (int values = 1; is_whole(entry) && !(entry & END); values++) {
            uint64_t next = singles[i << bits_of(entry) & ((1 << AC_LOOK) - 1)];
            if (!is_whole(next) || bits_of(entry) + bits_of(next) > AC_LOOK) break;
            if (next & END)
                entry |= END;
            else if (values == 1)
                entry += (next >> 32) << 48 | steps_of(next) << 16;
            else
                break;
            entry += bits_of(next);
        }
        pairs[i] = entry;
    }
}

static int prepare_huffman(struct huffman *table, int is_ac) {
    if (!table->is_known) return NOT_PLAIN;
    if (table->is_prepared) return DONE;
    table->is_prepared = 1;
    const int look = is_ac ? AC_LOOK : DC_LOOK;
    uint64_t singles[1 << AC_LOOK];
    for (int i = 0; i < 1 << look; i++) singles[i] = BEYOND << 16;
    int code = 0, index = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = table->counts[length];
        if (code + count >= 1 << length) return NOT_PLAIN; /* the standard forbids a code of all ones */
        table->first_index[length] = index - code;
        for (int i = 0; i < count; i++, code++, index++) {
            int symbol = table->symbols[index];
            if (!is_ac && symbol > 15) return NOT_PLAIN;
            if (length > look) continue;
            int room = look - length;
            for (int rest = 0; rest < 1 << room; rest++)
                singles[(code << room) + rest] = entry_of(symbol, length, rest, room, is_ac);
        }
        table->last_code[length] = count ? code - 1 : -1;
    }
    if (is_ac)
        pair_values(singles, table->entries);
    else
        memcpy(table->entries, singles, sizeof *singles << DC_LOOK);
    return DONE;
}

/* -- The scan's bits --------------------------------------------------------------------------------------------- */

/* Number of zero bytes after a scan. One MCU consumes less: at most 6 blocks of 64 coefficients of 31 bits. */
enum { SCAN_PADDING = 2048 };

/* The bits to read next: `count` bits at the top of `buffer`, then the bytes from `next` on. */
struct bits {
    uint64_t buffer;
    int count;
    const uint8_t *next;
};

/* Fill the buffer with at least 56 bits. The bits below them already hold the start of the following bits. */
INLINE void refill(struct bits *bits) {
    uint64_t word;
    memcpy(&word, bits->next, sizeof word);
    bits->buffer |= __builtin_bswap64(word) >> bits->count;
    bits->next += (63 - bits->count) >> 3;
    bits->count |= 56;
}

INLINE void skip(struct bits *bits, int count) { bits->buffer <<= count, bits->count -= count; }

/*
 * Copy the scan up to the next marker, without the zero byte that follows each 0xFF. Returns the marker's position, or
 * `end` if there is no marker, and sets `to` to the end of the copy. The copy is at most as long as the bytes up to
 * `end`.
 */
AVX2 static const uint8_t *unstuff(const uint8_t *at, const uint8_t *end, uint8_t **to) {
    const __m256i marks = _mm256_set1_epi8((char)0xFF);
    uint8_t *out = *to;
    for (;;) {
        if (end - at >= 32) {
            __m256i bytes = _mm256_loadu_si256((const void *)at);
            _mm256_storeu_si256((void *)out, bytes);
            uint32_t found = _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, marks));
            int before = found ? __builtin_ctz(found) : 32;
            at += before, out += before;
            if (!found) continue;
        } else {
            while (at < end && *at != 0xFF) *out++ = *at++;
        }
        if (end - at < 2 || at[1] != 0) break;
        *out++ = 0xFF, at += 2;
    }
    *to = out;
    return end - at < 2 ? end : at;
}

/* Tell whether less than one byte is left. */
INLINE int is_read(const struct bits *bits, const uint8_t *end) {
    ptrdiff_t left = (end - bits->next) * 8 + bits->count;
    return 0 <= left && left < 8;
}

/* Return the entry of the next code without its value, or 0 if there is no such code. */
static __attribute__((noinline)) uint64_t search_code(const struct huffman *table, uint64_t buffer, int is_ac) {
    for (int length = 1; length <= 16; length++) {
        int code = (int)(buffer >> (64 - length));
        if (code <= table->last_code[length])
            return bare_entry(table->symbols[(code + table->first_index[length]) & 255], length, is_ac);
    }
    return 0;
}

/* Read a value of `count` bits (0 to 15). */
INLINE int take(struct bits *bits, int count) {
    int value = extended((int)(bits->buffer >> 1 >> (63 - count)), count);
    skip(bits, count);
    return value;
}

/*
 * Decode a block and write its coefficients to `to`, at the indexes of PLACE. Without `keep`, only update `prediction`.
 * Returns the position of the last coefficient in zigzag order, or -1 for invalid bits.
 */
INLINE int decode_block(
    struct bits *state, const struct huffman *dc, const struct huffman *ac, uint32_t *prediction, int16_t *to,
    int keep) {
    struct bits local = *state, *bits = &local;
    const uint64_t *const entries = ac->entries;
    refill(bits);
    uint64_t entry = dc->entries[bits->buffer >> (64 - DC_LOOK)];
    if (unlikely(!bits_of(entry)) && !(entry = search_code(dc, bits->buffer, 0))) return -1;
    skip(bits, bits_of(entry));
    *prediction += (uint32_t)(is_whole(entry) ? value_of(entry) : take(bits, size_of(entry)));
    if (keep) to[0] = (int16_t)*prediction;
    size_t k = 0;
    while (k < 63) {
        refill(bits);
        int looks = 0;
        for (; looks < LOOKS; looks++) {
            entry = entries[bits->buffer >> (64 - AC_LOOK)];
            size_t first = k + steps_of(entry), last = k + all_steps_of(entry);
            /* A block may be full before the entry's last value. What follows in the entry is not of this block. */
            if (unlikely(last >= 63)) break;
            skip(bits, bits_of(entry));
            k = last;
            if (keep) {
                to[PLACE[last]] = second_value_of(entry);
                to[PLACE[first]] = value_of(entry);
            }
            if (entry & END) {
                *state = local;
                return (int)last - !value_of(entry);
            }
        }
        if (looks == LOOKS) continue;
        refill(bits);
        if ((is_whole(entry) || !bits_of(entry)) && !(entry = search_code(ac, bits->buffer, 1))) return -1;
        skip(bits, bits_of(entry));
        int size = size_of(entry);
        if (!size && steps_of(entry) == 1) break;
        if (!size && steps_of(entry) < 16) return -1;
        k += steps_of(entry);
        if (size) {
            int value = take(bits, size);
            if (keep) to[PLACE[k]] = (int16_t)value;
        }
    }
    *state = local;
    return k < 64 ? (int)k : -1;
}

/* -- Inverse DCT ------------------------------------------------------------------------------------------------- */

/*
 * One pass over two blocks side by side (each row has 8 values of one block and 8 of the other): libjpeg's accurate
 * integer transform (Loeffler, Ligtenberg and Moschytz, 1989; 13 bits after the binary point). Each sum has 16 or 32
 * bits as in libjpeg-turbo, so that an overflow gives the same result too.
 */
AVX2 INLINE void transform(__m256i rows[8], const int shift) {
#define PAIR(first, second) _mm256_set1_epi32((int)((uint16_t)(first) | (uint32_t)(uint16_t)(second) << 16))
#define HALVES(a, b) {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)}
#define SUM(a, b) _mm256_add_epi32(a, b)
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1)), zero = _mm256_setzero_si256();
    const __m256i sum = _mm256_add_epi16(rows[0], rows[4]), difference = _mm256_sub_epi16(rows[0], rows[4]);
    const __m256i odd_37 = _mm256_add_epi16(rows[3], rows[7]), odd_15 = _mm256_add_epi16(rows[1], rows[5]);
    const __m256i sums[2] = HALVES(zero, sum), differences[2] = HALVES(zero, difference);
    const __m256i in26[2] = HALVES(rows[2], rows[6]), in17[2] = HALVES(rows[1], rows[7]),
                  in35[2] = HALVES(rows[3], rows[5]);
    const __m256i both[2] = HALVES(odd_37, odd_15);
    __m256i results[2][8];
    for (int i = 0; i < 2; i++) {
        const __m256i plus = SUM(_mm256_srai_epi32(sums[i], 3), half),
                      minus = SUM(_mm256_srai_epi32(differences[i], 3), half);
        const __m256i wide = _mm256_madd_epi16(in26[i], PAIR(10703, 4433));
        const __m256i narrow = _mm256_madd_epi16(in26[i], PAIR(4433, -10704));
        const __m256i even[4] = {
            SUM(plus, wide), SUM(minus, narrow), _mm256_sub_epi32(minus, narrow), _mm256_sub_epi32(plus, wide)};
        const __m256i share_37 = _mm256_madd_epi16(both[i], PAIR(-6436, 9633));
        const __m256i share_15 = _mm256_madd_epi16(both[i], PAIR(9633, 6437));
        const __m256i odd[4] = {
            SUM(_mm256_madd_epi16(in17[i], PAIR(4926, -7373)), share_15),
            SUM(_mm256_madd_epi16(in35[i], PAIR(4177, -20995)), share_37),
            SUM(_mm256_madd_epi16(in35[i], PAIR(-20995, -4176)), share_15),
            SUM(_mm256_madd_epi16(in17[i], PAIR(-7373, -4927)), share_37)};
        for (int j = 0; j < 4; j++) {
            results[i][j] = _mm256_srai_epi32(SUM(even[j], odd[j]), shift);
            results[i][7 - j] = _mm256_srai_epi32(_mm256_sub_epi32(even[j], odd[j]), shift);
        }
    }
    for (int i = 0; i < 8; i++) rows[i] = _mm256_packs_epi32(results[0][i], results[1][i]);
#undef SUM
#undef HALVES
#undef PAIR
}

AVX2 INLINE void transpose(__m256i rows[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(rows[i], rows[i + 4]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        rows[2 * i] = _mm256_unpacklo_epi16(b[i], b[i + 4]);
        rows[2 * i + 1] = _mm256_unpackhi_epi16(b[i], b[i + 4]);
    }
}

/* Maximum of a coefficient times its quantization step. Pixels of 8 bits never exceed it, and 16 bits hold it. */
enum { MAX_COEFFICIENT = 8191 };

/* Quantization steps of two blocks side by side, and the largest valid coefficient for each step. */
struct quantization {
    _Alignas(32) int16_t steps[128];
    _Alignas(32) int16_t most[128];
};

/*
 * Turn two blocks of coefficients, as decode_block writes them, into pixels, and clear the coefficients. Returns
 * NOT_PLAIN if a coefficient exceeds MAX_COEFFICIENT. `is_flat` says that both blocks have only their first
 * coefficient.
 */
AVX2 static int place_blocks(
    int16_t *pair, const struct quantization *quantization, uint8_t *first, uint8_t *second, ptrdiff_t stride,
    int is_flat) {
    if (is_flat) {
        for (int side = 0; side < 16; side += 8) {
            int value = pair[side] * quantization->steps[side];
            if (value < -MAX_COEFFICIENT || value > MAX_COEFFICIENT) return NOT_PLAIN;
            value = ((value + 4) >> 3) + 128;
            uint64_t bytes = (value < 0 ? 0 : value > 255 ? 255 : value) * 0x0101010101010101u;
            for (int y = 0; y < 8; y++) memcpy((side ? second : first) + y * stride, &bytes, 8);
            pair[side] = 0;
        }
        return DONE;
    }
    __m256i rows[8], beyond = _mm256_setzero_si256();
    for (int i = 0; i < 8; i++) {
        __m256i *at = (__m256i *)pair + i;
        const __m256i steps = _mm256_load_si256((const __m256i *)quantization->steps + i);
        const __m256i most = _mm256_load_si256((const __m256i *)quantization->most + i);
        const __m256i values = _mm256_load_si256(at);
        beyond = _mm256_or_si256(beyond, _mm256_subs_epu16(_mm256_abs_epi16(values), most));
        rows[i] = _mm256_mullo_epi16(values, steps);
        _mm256_store_si256(at, _mm256_setzero_si256());
    }
    if (unlikely(!_mm256_testz_si256(beyond, beyond))) return NOT_PLAIN;
    transform(rows, 11);
    transpose(rows);
    transform(rows, 18);
    transpose(rows);
    for (int y = 0; y < 8; y += 2) {
        __m256i bytes = _mm256_packs_epi16(rows[y], rows[y + 1]); /* two rows of each block */
        bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x80));
        const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
        _mm_storel_epi64((void *)(first + y * stride), low);
        _mm_storeh_pd((void *)(first + (y + 1) * stride), _mm_castsi128_pd(low));
        _mm_storel_epi64((void *)(second + y * stride), high);
        _mm_storeh_pd((void *)(second + (y + 1) * stride), _mm_castsi128_pd(high));
    }
    return DONE;
}

/* -- A row of pixels --------------------------------------------------------------------------------------------- */

/* Buffers for one row of pixels. Columns are counted from the first column that is kept. */
struct rows {
    int columns, chroma_columns; /* number of columns that are kept; multiples of 8 */
    int last_chroma;             /* the image's last column of chroma, or the last that is kept */
    int is_halved_across, is_halved_down, channels;
    int16_t *sums[2];   /* of Cb and Cr; the first index is -1 */
    int16_t *colors[3]; /* R, G and B, or only grey */
};

AVX2 INLINE __m256i wide(const uint8_t *bytes) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)bytes)); }

/* Compute three times the nearer row of chroma plus the other row. Without `far`, copy the row. */
AVX2 static void sum_chroma(const struct rows *rows, const uint8_t *near, const uint8_t *far, int16_t *sums) {
    for (int i = 0; i < rows->chroma_columns; i += 16) {
        __m256i sum = wide(near + i);
        if (far) sum = _mm256_add_epi16(_mm256_add_epi16(sum, _mm256_slli_epi16(sum, 1)), wide(far + i));
        _mm256_storeu_si256((void *)(sums + i), sum);
    }
    sums[-1] = sums[0];
    sums[rows->last_chroma + 1] = sums[rows->last_chroma];
}

/* Make 32 columns of chroma, minus 128, from 16 sums: three times each sum, plus its left or its right neighbour. */
AVX2 INLINE void widen_chroma(const int16_t *sums, int is_halved_down, __m256i columns[2]) {
    __m256i sum = _mm256_loadu_si256((const void *)sums);
    __m256i before = _mm256_loadu_si256((const void *)(sums - 1)), after = _mm256_loadu_si256((const void *)(sums + 1));
    __m256i three = _mm256_add_epi16(sum, _mm256_slli_epi16(sum, 1)), even, odd;
    /* 128 is subtracted before the division, together with the rounding. */
    if (is_halved_down) {
        even = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(three, before), _mm256_set1_epi16(8 - 16 * 128)), 4);
        odd = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(three, after), _mm256_set1_epi16(7 - 16 * 128)), 4);
    } else {
        even = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(three, before), _mm256_set1_epi16(1 - 4 * 128)), 2);
        odd = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(three, after), _mm256_set1_epi16(2 - 4 * 128)), 2);
    }
    __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
    columns[0] = _mm256_permute2x128_si256(low, high, 0x20);
    columns[1] = _mm256_permute2x128_si256(low, high, 0x31);
}

AVX2 INLINE __m256i byte_range(__m256i values) {
    return _mm256_min_epi16(_mm256_max_epi16(values, _mm256_setzero_si256()), _mm256_set1_epi16(255));
}

/* JFIF's colour conversion with libjpeg's 16 bits after the binary point. Integer parts of factors are added apart. */
AVX2 INLINE void store_colors(const struct rows *rows, int x, __m256i luma, __m256i cb, __m256i cr) {
    const __m256i one = _mm256_set1_epi16(1), half = _mm256_set1_epi32(1 << 15);
    __m256i twice = _mm256_add_epi16(cr, cr);
    __m256i part = _mm256_srai_epi16(_mm256_add_epi16(_mm256_mulhi_epi16(twice, _mm256_set1_epi16(26345)), one), 1);
    __m256i red = _mm256_add_epi16(_mm256_add_epi16(luma, cr), part);
    /* The same with 14942 instead of 26345, which one instruction computes for even factors. */
    part = _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(-14942 / 2));
    __m256i blue = _mm256_add_epi16(_mm256_add_epi16(luma, _mm256_add_epi16(cb, cb)), part);
    const __m256i weights = _mm256_set1_epi32((int)((uint16_t)-22554 | 18734u << 16));
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), weights);
    __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), weights);
    low = _mm256_srai_epi32(_mm256_add_epi32(low, half), 16),
    high = _mm256_srai_epi32(_mm256_add_epi32(high, half), 16);
    __m256i green = _mm256_add_epi16(_mm256_sub_epi16(luma, cr), _mm256_packs_epi32(low, high));
    _mm256_storeu_si256((void *)(rows->colors[0] + x), byte_range(red));
    _mm256_storeu_si256((void *)(rows->colors[1] + x), byte_range(green));
    _mm256_storeu_si256((void *)(rows->colors[2] + x), byte_range(blue));
}

/* Make the colours of a row from its luma and, for Cb and Cr, from the nearest row and the second nearest row. */
AVX2 static void color_row(
    const struct rows *rows, const uint8_t *luma, const uint8_t *near[2], const uint8_t *far[2]) {
    if (rows->channels == 1) {
        for (int x = 0; x < rows->columns; x += 16) _mm256_storeu_si256((void *)(rows->colors[0] + x), wide(luma + x));
    } else if (rows->is_halved_across) {
        for (int i = 0; i < 2; i++) sum_chroma(rows, near[i], rows->is_halved_down ? far[i] : NULL, rows->sums[i]);
        for (int x = 0; x < rows->chroma_columns; x += 16) {
            __m256i cb[2], cr[2];
            widen_chroma(rows->sums[0] + x, rows->is_halved_down, cb);
            widen_chroma(rows->sums[1] + x, rows->is_halved_down, cr);
            store_colors(rows, 2 * x, wide(luma + 2 * x), cb[0], cr[0]);
            store_colors(rows, 2 * x + 16, wide(luma + 2 * x + 16), cb[1], cr[1]);
        }
    } else {
        const __m256i middle = _mm256_set1_epi16(128);
        for (int x = 0; x < rows->columns; x += 16) {
            __m256i cb = _mm256_sub_epi16(wide(near[0] + x), middle), cr = _mm256_sub_epi16(wide(near[1] + x), middle);
            store_colors(rows, x, wide(luma + x), cb, cr);
        }
    }
}

/* -- Resize ------------------------------------------------------------------------------------------------------ */

/*
 * Three steps from eight vectors of eight numbers to their eight sums: each step adds halves of two vectors to one
 * vector, with half as many numbers of each.
 */
AVX2 INLINE __m256i sums_of_eights(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

AVX2 INLINE __m256i sums_of_fours(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

AVX2 INLINE __m256i sums_of_halves(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* Return the sum of pixels times weights as eight numbers, to be added. */
AVX2 INLINE __m256i products(const int16_t *weights, const int16_t *pixels, const int vectors) {
    __m256i sum = _mm256_setzero_si256();
    for (int v = 0; v < vectors; v++) {
        __m256i product = _mm256_madd_epi16(
            _mm256_loadu_si256((const void *)(weights + 16 * v)), _mm256_loadu_si256((const void *)(pixels + 16 * v)));
        sum = v ? _mm256_add_epi32(sum, product) : product;
    }
    return sum;
}

/*
 * Resize the colours of a row horizontally. The row begins with pixel `start`. A multiple of 8 bytes is written for
 * each colour, and the bytes of the colours are `next` bytes apart.
 */
AVX2 INLINE void resize_row(
    const struct axis *axis, int16_t *const colors[3], const int channels, int start, int size, uint8_t *to,
    ptrdiff_t next, const int vectors) {
    const __m256i half = _mm256_set1_epi32(1 << (axis->precision - 1));
    const __m128i shift = _mm_cvtsi32_si128(axis->precision);
    const int16_t *weights = axis->weights;
    for (int i = 0; i < size; i += 8) {
        __m256i fours[3][2];
        for (int j = 0; j < 2; j++) {
            __m256i eights[3][2];
            for (int l = 0; l < 2; l++, weights += 32 * vectors) {
                const int32_t *first = axis->first + i + 4 * j + 2 * l;
                const ptrdiff_t a = first[0] - start, b = first[1] - start;
                for (int c = 0; c < channels; c++)
                    eights[c][l] = sums_of_eights(products(weights, colors[c] + a, vectors),
                                                  products(weights + 16 * vectors, colors[c] + b, vectors));
            }
            for (int c = 0; c < channels; c++) fours[c][j] = sums_of_fours(eights[c][0], eights[c][1]);
        }
        for (int c = 0; c < channels; c++) {
            __m256i total = _mm256_sra_epi32(_mm256_add_epi32(sums_of_halves(fours[c][0], fours[c][1]), half), shift);
            __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
            _mm_storel_epi64((void *)(to + c * next + i), _mm_packus_epi16(words, words));
        }
    }
}

AVX2 static void resize_across(
    const struct axis *axis, const struct rows *rows, int start, int size, uint8_t *to, ptrdiff_t next) {
    if (axis->taps == 16 && rows->channels == 3)
        resize_row(axis, rows->colors, 3, start, size, to, next, 1);
    else if (axis->taps == 32 && rows->channels == 3)
        resize_row(axis, rows->colors, 3, start, size, to, next, 2);
    else
        for (int c = 0; c < rows->channels; c++)
            resize_row(axis, rows->colors + c, 1, start, size, to + c * next, next, axis->taps / 16);
}

/* Resize `taps` rows vertically to one row. If `taps` is odd, one more row follows, with the weight zero. */
AVX2 static void resize_down(
    const int16_t *weights, int taps, int precision, const uint8_t *const *rows, int length, uint8_t *to) {
    const __m256i half = _mm256_set1_epi32(1 << (precision - 1));
    const __m128i shift = _mm_cvtsi32_si128(precision);
    for (int x = 0; x < length; x += 16) {
        __m256i low = half, high = half;
        for (int i = 0; i < taps; i += 2) {
            int32_t both;
            memcpy(&both, weights + i, sizeof both);
            __m256i a = wide(rows[i] + x), b = wide(rows[i + 1] + x), weight = _mm256_set1_epi32(both);
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weight));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weight));
        }
        __m256i words = _mm256_packs_epi32(_mm256_sra_epi32(low, shift), _mm256_sra_epi32(high, shift));
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
        _mm_storeu_si128((void *)(to + x), _mm256_castsi256_si128(bytes));
    }
}

/* Write a row of RGB pixels from the rows of their colours, which are `next` bytes apart. */
static void interleave(const uint8_t *colors, ptrdiff_t next, int size, uint8_t *to) {
    for (int x = 0; x < size; x++, to += 3) to[0] = colors[x], to[1] = colors[x + next], to[2] = colors[x + 2 * next];
}

/* -- All of it --------------------------------------------------------------------------------------------------- */

INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }

/* Memory for the latest `height` rows of pixels. Row y is at index y modulo `height`. */
struct ring {
    uint8_t *pixels;
    ptrdiff_t stride;
    int height;
};

INLINE uint8_t *row_of(const struct ring *ring, int y) { return ring->pixels + (y % ring->height) * ring->stride; }

struct job {
    struct header header;
    struct huffman huffman[2][2];        /* DC and AC */
    struct quantization quantization[2]; /* of two blocks of luma; of Cb and Cr */
    _Alignas(32) int16_t pair[128];      /* two blocks, side by side */
    struct bits bits;
    uint32_t predictions[3];
    int mcu_width, mcu_height, mcus_across, mcus_down;
    int left, right, top, bottom; /* range of the MCUs that are kept */
    struct ring planes[3];        /* the last two rows of MCUs */
    uint8_t *spare;               /* receives the pixels of an unused second block */
    struct rows rows;
    struct ring resized; /* horizontally resized rows, with `span` bytes for each colour */
    int span, next_row, next_output;
    uint8_t *output;
    const uint8_t **taken;
};

/* Take the next `size` bytes, aligned to 64, from the memory that is left. The fuzzer has a `carve` with guards. */
#ifdef GUARDED_PIECES
void *carve(uint8_t **left, size_t size);
#else
static void *carve(uint8_t **left, size_t size) {
    uint8_t *start = *left + (-(uintptr_t)*left & 63);
    *left = start + size;
    return start;
}
#endif

/* Return the size of a row of `size` elements with room for whole vectors at its end. */
INLINE size_t padded(size_t size) { return (size + 64 + 63) & ~(size_t)63; }

/* Return the bytes of scratch memory for a square of an image of this width, with up to `taps` weights an output. */
size_t plain_jpeg_room(size_t length, int width, int size, int taps) {
    size_t row = padded((size_t)width + 48 + taps), span = padded(size), pieces = 16;
    size_t planes = 3 * 32 * row + 8 * row, colors = 5 * 2 * row;
    size_t resized = (taps + 2) * 3 * span, taken = (taps + 2) * sizeof(void *);
    return sizeof(struct job) + length + SCAN_PADDING + planes + colors + resized + taken + 64 * pieces;
}

/* Resize the next row of pixels, and write every row of the square that can now be computed. */
AVX2 static void resize_next_row(
    struct job *job, const struct axis *across, const struct axis *down, int size, uint8_t *out) {
    struct rows *rows = &job->rows;
    const int y = job->next_row++;
    const uint8_t *near[2] = {0}, *far[2] = {0};
    for (int i = 0; i < 2 && rows->channels == 3; i++) {
        int row = y >> rows->is_halved_down, last = (job->header.height - 1) >> rows->is_halved_down;
        near[i] = row_of(&job->planes[1 + i], row);
        far[i] = row_of(&job->planes[1 + i], y & 1 ? least(row + 1, last) : most(row - 1, 0));
    }
    color_row(rows, row_of(&job->planes[0], y), near, far);
    resize_across(across, rows, job->left * job->mcu_width, size, row_of(&job->resized, y), job->span);
    for (; job->next_output < size; job->next_output++) {
        const int output = job->next_output, first = down->first[output], taps = down->counts[output];
        if (first + taps > y + 1) break;
        for (int i = 0; i <= taps; i++) job->taken[i] = row_of(&job->resized, first + least(i, taps - 1));
        const int16_t *weights = down->weights + (ptrdiff_t)output * down->taps;
        resize_down(weights, taps, down->precision, job->taken, rows->channels * job->span, job->output);
        ptrdiff_t next = rows->channels == 3 ? job->span : 0;
        interleave(job->output, next, size, out + (ptrdiff_t)output * size * 3);
    }
}

/* Decode one or two blocks of the current MCU (`second` is -1 for one), and with `keep` write their pixels. */
AVX2 INLINE int decode_pair(
    struct job *job, int first, int second, uint8_t *first_to, uint8_t *second_to, ptrdiff_t stride, int keep) {
    int last = 0;
    for (int side = 0; side < 2; side++) {
        int number = side ? second : first;
        if (number < 0) break;
        const struct component *component = &job->header.component[number];
        const struct huffman *dc = &job->huffman[0][component->dc], *ac = &job->huffman[1][component->ac];
        int end = decode_block(&job->bits, dc, ac, &job->predictions[number], job->pair + 8 * side, keep);
        if (end < 0) return NOT_PLAIN;
        last |= end;
    }
    if (!keep) return DONE;
    return place_blocks(job->pair, &job->quantization[first > 0], first_to, second_to, stride, !last);
}

/* Decode the MCU in column x and row y of the grid of MCUs. */
AVX2 INLINE int decode_mcu(struct job *job, int x, int y, int keep) {
    const struct component *luma = &job->header.component[0];
    const ptrdiff_t stride = job->planes[0].stride;
    const int column = keep ? x - job->left : 0;
    for (int i = 0; i < luma->down; i++) {
        uint8_t *to = row_of(&job->planes[0], y * job->mcu_height + 8 * i) + column * job->mcu_width;
        int outcome = luma->across == 2 ? decode_pair(job, 0, 0, to, to + 8, stride, keep)
                                        : decode_pair(job, 0, -1, to, job->spare, stride, keep);
        if (outcome != DONE) return outcome;
    }
    if (job->header.components == 1) return DONE;
    uint8_t *cb = row_of(&job->planes[1], 8 * y) + 8 * column, *cr = row_of(&job->planes[2], 8 * y) + 8 * column;
    return decode_pair(job, 1, 2, cb, cr, job->planes[1].stride, keep);
}

/* Prepare the tables and everything that depends on the size of the image. */
static int prepare(struct job *job, const struct axis *across, const struct axis *down, int size, uint8_t *left) {
    struct header *header = &job->header;
    const struct component *luma = header->component;
    for (int i = 0; i < header->components; i++) {
        const struct component *component = &header->component[i];
        if (prepare_huffman(&job->huffman[0][component->dc], 0) != DONE) return NOT_PLAIN;
        if (prepare_huffman(&job->huffman[1][component->ac], 1) != DONE) return NOT_PLAIN;
        for (int side = i == 2; side < (i == 1 ? 1 : 2); side++) {
            struct quantization *pair = &job->quantization[i > 0];
            for (int k = 0; k < 64; k++) {
                int step = header->quantization[component->quantization][k], place = OF(k) + 8 * side;
                pair->steps[place] = (int16_t)step;
                pair->most[place] = (int16_t)(step ? MAX_COEFFICIENT / step : MAX_COEFFICIENT);
            }
        }
    }
    memset(job->pair, 0, sizeof job->pair);

    const int width = header->width, height = header->height;
    job->mcu_width = 8 * luma->across, job->mcu_height = 8 * luma->down;
    job->mcus_across = (width + job->mcu_width - 1) / job->mcu_width;
    job->mcus_down = (height + job->mcu_height - 1) / job->mcu_height;
    /* Two more pixels on each side, because the filter of chroma uses neighbours. */
    job->left = most(across->start - 2, 0) / job->mcu_width;
    job->right = least(across->end + 1, width - 1) / job->mcu_width + 1;
    job->top = most(down->start - 2, 0) / job->mcu_height;
    job->bottom = least(down->end + 1, height - 1) / job->mcu_height + 1;
    job->next_row = down->start, job->next_output = 0;

    struct rows *rows = &job->rows;
    rows->is_halved_across = luma->across == 2, rows->is_halved_down = luma->down == 2;
    rows->channels = header->components;
    rows->columns = (job->right - job->left) * job->mcu_width;
    rows->chroma_columns = (job->right - job->left) * 8;
    int last_chroma = (width - 1) >> rows->is_halved_across;
    rows->last_chroma = least(last_chroma - job->left * 8, rows->chroma_columns - 1);

    for (int i = 0; i < header->components; i++) {
        struct ring *plane = &job->planes[i];
        plane->stride = padded(i ? rows->chroma_columns : rows->columns);
        plane->height = 2 * (i ? 8 : job->mcu_height);
        plane->pixels = carve(&left, plane->height * plane->stride);
    }
    job->spare = carve(&left, 8 * job->planes[0].stride);
    for (int i = 0; i < 2; i++) rows->sums[i] = (int16_t *)carve(&left, 2 * padded(rows->chroma_columns + 32)) + 32;
    for (int i = 0; i < 3; i++) rows->colors[i] = carve(&left, 2 * padded(rows->columns + across->taps));
    job->span = padded(size);
    job->resized.height = down->taps + 1, job->resized.stride = rows->channels * job->span;
    job->resized.pixels = carve(&left, job->resized.height * job->resized.stride);
    job->output = carve(&left, 3 * job->span);
    job->taken = carve(&left, (down->taps + 2) * sizeof *job->taken);
    return DONE;
}

/*
 * Write the square to `out`, [size][size][3] in RGB. Returns DONE, or NOT_PLAIN (`out` is then undefined), or NO_ROOM
 * if there is less scratch memory than plain_jpeg_room returns.
 */
AVX2 int plain_jpeg_square(
    const uint8_t *data, size_t length, int width, int height, int size, const struct axis *across,
    const struct axis *down, uint8_t *scratch, size_t room, uint8_t *out) {
    if (room < plain_jpeg_room(length, width, size, most(across->taps, down->taps))) return NO_ROOM;
    struct job *job = carve(&scratch, sizeof *job);
    uint8_t *scan = carve(&scratch, length + SCAN_PADDING);
    if (read_headers(&job->header, job->huffman, data, length) != DONE) return NOT_PLAIN;
    if (job->header.width != width || job->header.height != height) return NOT_PLAIN;
    if (width < MIN_SIDE || height < MIN_SIDE) return NOT_PLAIN;
    if (prepare(job, across, down, size, scratch) != DONE) return NOT_PLAIN;

    const int interval =
        job->header.restart_interval ? job->header.restart_interval : job->mcus_across * job->mcus_down;
    const uint8_t *at = data + job->header.scan,
                  *end = data + length; /* the bytes of the scan that are not unstuffed yet */
    uint8_t *scan_end = scan;
    for (int y = 0, number = 0; y < job->mcus_down; y++) {
        for (int x = 0; x < job->mcus_across; x++, number++) {
            if (number % interval == 0) {
                if (number) {
                    int marker = 0xD0 + (number / interval - 1) % 8;
                    if (!is_read(&job->bits, scan_end) || end - at < 2 || at[1] != marker) return NOT_PLAIN;
                    at += 2;
                }
                scan_end = scan;
                at = unstuff(at, end, &scan_end);
                memset(scan_end, 0, SCAN_PADDING);
                job->bits = (struct bits){0, 0, scan};
                memset(job->predictions, 0, sizeof job->predictions);
            }
            const int is_kept = job->left <= x && x < job->right && job->top <= y && y < job->bottom;
            if ((is_kept ? decode_mcu(job, x, y, 1) : decode_mcu(job, x, y, 0)) != DONE) return NOT_PLAIN;
            if (job->bits.next > scan_end + 8) return NOT_PLAIN;
        }
        /* With vertically halved chroma, the last row needs the chroma of the next row of MCUs. */
        int ready = y == job->mcus_down - 1 ? height : (y + 1) * job->mcu_height - job->rows.is_halved_down;
        while (job->next_row < least(ready, down->end)) resize_next_row(job, across, down, size, out);
    }
    return is_read(&job->bits, scan_end) && end - at >= 2 && at[1] == 0xD9 ? DONE : NOT_PLAIN;
}

/* Tell whether this processor has the instructions that this code uses. */
int plain_jpeg_works(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"); }

#else

int plain_jpeg_works(void) { return 0; }

size_t plain_jpeg_room(size_t length, int width, int size, int taps) {
    (void)length, (void)width, (void)size, (void)taps;
    return 0;
}

int plain_jpeg_square(
    const uint8_t *data, size_t length, int width, int height, int size, const struct axis *across,
    const struct axis *down, uint8_t *scratch, size_t room, uint8_t *out) {
    (void)data, (void)length, (void)width, (void)height, (void)size, (void)across, (void)down, (void)scratch,
        (void)room, (void)out;
    return NOT_PLAIN;
}

#endif
