/*
 * Makes new inputs for the fuzzer from earlier ones. Most changes of a JPEG make it invalid, and plain_jpeg.c then stops
 * early. So the mutator changes one part of a JPEG (a header, a table, bytes of the scan, the options behind it) and
 * then mends the scan: it reads the old scan's codes with the new headers, replaces what is invalid, and writes them
 * again. Most results are valid JPEGs. Some changes are not mended, so that the decoder's refusals are tried too.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

enum { OPTIONS = 4, MAX_SIZE = 1 << 16, MAX_SEGMENTS = 64, MAX_BLOCKS = 1 << 13 };

/* -- Random numbers ---------------------------------------------------------------------------------------------- */

static uint64_t state;

/* Return a number from 0 to `count` - 1 (Marsaglia's xorshift, 2003). */
static unsigned below(unsigned count) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)((state >> 16) % count);
}

/* -- An input in parts ------------------------------------------------------------------------------------------- */

struct segment {
    size_t at, size; /* of the whole segment, from its 0xFF */
    int marker;
};

struct input {
    uint8_t bytes[MAX_SIZE];
    size_t size;
    struct segment segments[MAX_SEGMENTS];
    int count;
    size_t scan, scan_end; /* from behind the last segment (SOS) up to the options */
};

/* Find the segments. Returns 0 if there is no way to the scan. */
static int divide(struct input *input) {
    const uint8_t *bytes = input->bytes;
    input->count = 0;
    if (input->size < 2 + OPTIONS) return 0;
    input->scan_end = input->size - OPTIONS;
    for (size_t at = 2; at + 4 <= input->scan_end && bytes[at] == 0xFF;) {
        if (bytes[at + 1] == 0xFF) {
            at++;
            continue;
        }
        size_t size = 2 + (size_t)(bytes[at + 2] << 8 | bytes[at + 3]);
        if (size < 4 || at + size > input->scan_end || input->count == MAX_SEGMENTS) return 0;
        input->segments[input->count++] = (struct segment){at, size, bytes[at + 1]};
        at += size;
        if (bytes[at - size + 1] == 0xDA) {
            input->scan = at;
            return 1;
        }
    }
    return 0;
}

/* Replace `removed` bytes at `at` by `size` others. Nothing happens if the input would be too large. */
static void replace(struct input *input, size_t at, size_t removed, const uint8_t *bytes, size_t size) {
    if (input->size - removed + size > MAX_SIZE) return;
    memmove(input->bytes + at + size, input->bytes + at + removed, input->size - at - removed);
    memcpy(input->bytes + at, bytes, size);
    input->size += size - removed;
}

static const struct segment *any_segment(const struct input *input) {
    return &input->segments[below(input->count)];
}

static const struct segment *find_segment(const struct input *input, int first_marker, int last_marker) {
    for (int i = 0; i < input->count; i++)
        if (first_marker <= input->segments[i].marker && input->segments[i].marker <= last_marker)
            return &input->segments[i];
    return NULL;
}

/* -- Changes ----------------------------------------------------------------------------------------------------- */

/* Let libFuzzer change `size` bytes at `at`, without a change of their number. */
static void change_bytes(struct input *input, size_t at, size_t size) {
    if (!size) return;
    size_t left = LLVMFuzzerMutate(input->bytes + at, size, size);
    if (left < size) memset(input->bytes + at + left, 0, size - left);
}

static void change_segment(struct input *input) {
    const struct segment *segment = any_segment(input);
    change_bytes(input, segment->at + 4, segment->size - 4);
}

static void change_scan(struct input *input) {
    uint8_t scan[MAX_SIZE];
    const size_t size = input->scan_end - input->scan;
    if (!size) return;
    memcpy(scan, input->bytes + input->scan, size);
    size_t changed = LLVMFuzzerMutate(scan, size, size + 64 < MAX_SIZE ? size + 64 : size);
    replace(input, input->scan, size, scan, changed);
}

/* Cut the scan anywhere, with or without an end. */
static void cut_scan(struct input *input) {
    const size_t size = input->scan_end - input->scan;
    if (!size) return;
    const size_t left = below(size);
    replace(input, input->scan + left, size - left, (const uint8_t[]){0xFF, 0xD9}, 2 * below(2));
}

static void change_frame(struct input *input) {
    static const uint8_t SAMPLINGS[] = {0x11, 0x21, 0x22};
    const struct segment *segment = find_segment(input, 0xC0, 0xC1);
    if (!segment || segment->size < 13) return;
    uint8_t *frame = input->bytes + segment->at;
    switch (below(4)) {
        case 0: frame[1] ^= 1; break; /* baseline or extended */
        case 1: frame[11] = SAMPLINGS[below(sizeof SAMPLINGS)]; break;
        default: {
            static const int MOST[] = {16, 64, 64, 64, 64, 64, 200, 600};
            uint8_t *side = frame + (below(2) ? 5 : 7);
            const int pixels = 1 + below(MOST[below(8)]);
            side[0] = pixels >> 8, side[1] = pixels & 255;
        }
    }
}

/* Put in the place of the Huffman tables of one segment one table with random symbols and random lengths of codes. */
static void change_huffman(struct input *input) {
    const struct segment *segments[MAX_SEGMENTS];
    int count = 0;
    for (int i = 0; i < input->count; i++)
        if (input->segments[i].marker == 0xC4 && input->segments[i].size > 4) segments[count++] = &input->segments[i];
    if (!count) return;
    const struct segment *segment = segments[below(count)];
    const uint8_t number = input->bytes[segment->at + 4];
    const int is_ac = number >> 4 & 1;
    uint8_t table[4 + 17 + 256] = {0xFF, 0xC4, 0, 0, number}, *lengths = table + 4, *symbols = table + 21;
    int left = is_ac ? 2 + below(160) : 1 + below(12), size = 0;
    const int eagerness = 1 + below(16); /* the larger, the longer the codes */
    for (int length = 1, free_codes = 1; length <= 16; length++) {
        free_codes *= 2;
        int most = free_codes - 1 < left ? free_codes - 1 : left;
        int taken = length == 16 ? most : most && !below(eagerness) ? 1 + (int)below(most) : 0;
        lengths[length] = taken, size += taken, left -= taken, free_codes -= taken;
    }
    for (int i = 0; i < size; i++) symbols[i] = is_ac ? below(16) << 4 | (1 + below(10)) : i;
    if (is_ac && size) symbols[below(size)] = 0; /* the end of a block */
    if (is_ac && size > 2) symbols[below(size)] = 0xF0;
    if (!is_ac)
        for (int i = size - 1; i > 0; i--) {
            int other = below(i + 1), symbol = symbols[i];
            symbols[i] = symbols[other], symbols[other] = symbol;
        }
    table[3] = (19 + size) & 0xFF, table[2] = (19 + size) >> 8;
    replace(input, segment->at, segment->size, table, 21 + size);
}

static void change_order(struct input *input) {
    uint8_t bytes[MAX_SIZE];
    const struct segment segment = *any_segment(input);
    switch (below(5)) {
        case 0: { /* a restart interval */
            const uint8_t interval[] = {0xFF, 0xDD, 0, 4, below(16) ? 0 : below(256), below(12)};
            replace(input, segment.at, 0, interval, sizeof interval);
            break;
        }
        case 1: { /* a comment or the data of an application */
            uint8_t other[32] = {0xFF, below(4) ? 0xE0 | below(16) : 0xFE, 0, 2 + below(28)};
            for (size_t i = 4; i < sizeof other; i++) other[i] = below(256);
            if (other[1] == 0xE0) memcpy(other + 4, "JFIF\0\1", 6);
            if (other[1] == 0xEE) memcpy(other + 4, "Adobe", 5), other[15] = below(3);
            replace(input, segment.at, 0, other, 2 + other[3]);
            break;
        }
        case 2: /* none of them */
            replace(input, segment.at, segment.size, bytes, 0);
            break;
        case 3: /* a segment twice, or in another place */
            memcpy(bytes, input->bytes + segment.at, segment.size);
            replace(input, any_segment(input)->at, 0, bytes, segment.size);
            break;
        default: /* more than one byte 0xFF before a marker */
            replace(input, segment.at, 0, (const uint8_t[]){0xFF}, 1);
    }
}

/* -- Headers, as far as the scan needs them ---------------------------------------------------------------------- */

struct table {
    int is_known, lengths[17], first_code[17], first_index[17];
    uint8_t symbols[256];
    int code[256], bits[256]; /* of each symbol; 0 bits: it has no code */
    int count;
};

struct component {
    int blocks, dc, ac, quantization; /* blocks of one MCU */
};

struct headers {
    int width, height, count, interval, mcus;
    struct component components[3];
    uint8_t steps[4][64]; /* in the order of the file */
    struct table tables[2][2];
};

/* Read one segment's Huffman tables. Returns 0 if a table is invalid. */
static int read_tables(struct headers *headers, const uint8_t *at, const uint8_t *end) {
    while (end - at >= 17) {
        if (*at & 0xEE) return 0;
        struct table *table = &headers->tables[*at >> 4][*at & 1];
        memset(table, 0, sizeof *table);
        for (int length = 1, code = 0; length <= 16; length++, code <<= 1) {
            table->first_code[length] = code, table->first_index[length] = table->count;
            table->lengths[length] = at[length];
            code += at[length], table->count += at[length];
            if (code >= 1 << length || table->count > 256 || end - at < 17 + table->count) return 0;
        }
        memcpy(table->symbols, at + 17, table->count);
        for (int length = 16; length >= 1; length--)
            for (int i = 0; i < table->lengths[length]; i++) {
                const int symbol = table->symbols[table->first_index[length] + i];
                table->bits[symbol] = length, table->code[symbol] = table->first_code[length] + i;
            }
        table->is_known = table->count > 0;
        at += 17 + table->count;
    }
    return at == end;
}

static int read_headers(const struct input *input, struct headers *headers) {
    memset(headers, 0, sizeof *headers);
    int largest = 0x11;
    for (int i = 0; i < input->count; i++) {
        const struct segment *segment = &input->segments[i];
        const uint8_t *at = input->bytes + segment->at + 4, *end = at + segment->size - 4;
        if (segment->marker == 0xDB) {
            for (; end - at >= 65 && *at < 4; at += 65) memcpy(headers->steps[*at], at + 1, 64);
        } else if (segment->marker == 0xC4) {
            if (!read_tables(headers, at, end)) return 0;
        } else if (segment->marker == 0xDD && end - at >= 2) {
            headers->interval = at[0] << 8 | at[1];
        } else if (segment->marker == 0xC0 || segment->marker == 0xC1) {
            if (end - at < 6 || (at[5] != 1 && at[5] != 3) || end - at < 6 + 3 * at[5]) return 0;
            headers->height = at[1] << 8 | at[2], headers->width = at[3] << 8 | at[4];
            headers->count = at[5];
            for (int k = 0; k < headers->count; k++) {
                const int across = at[7 + 3 * k] >> 4, down = at[7 + 3 * k] & 15;
                if (across < 1 || across > 2 || down < 1 || down > 2) return 0;
                headers->components[k].blocks = headers->count == 1 ? 1 : across * down;
                headers->components[k].quantization = at[8 + 3 * k] & 3;
                largest |= headers->count == 1 ? 0 : at[7 + 3 * k];
            }
        } else if (segment->marker == 0xDA) {
            if (!headers->count || end - at < 1 + 2 * headers->count) return 0;
            for (int k = 0; k < headers->count; k++) {
                struct component *component = &headers->components[k];
                component->dc = at[2 + 2 * k] >> 4 & 1, component->ac = at[2 + 2 * k] & 1;
                if (!headers->tables[0][component->dc].is_known) return 0;
                if (!headers->tables[1][component->ac].is_known) return 0;
            }
        }
    }
    const int across = largest >> 5 ? 16 : 8, down = (largest & 15) > 1 ? 16 : 8;
    headers->mcus = ((headers->width + across - 1) / across) * ((headers->height + down - 1) / down);
    return headers->mcus > 0 && headers->mcus <= MAX_BLOCKS;
}

/* -- The scan, read and written again ---------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    int bits, byte; /* bits of the byte that are left */
    int is_empty;
};

static int next_bit(struct reader *reader) {
    if (!reader->bits) {
        while (reader->end - reader->at >= 2 && reader->at[0] == 0xFF && reader->at[1] != 0) reader->at += 2;
        if (reader->at >= reader->end) {
            reader->is_empty = 1;
            return below(2);
        }
        reader->byte = *reader->at, reader->bits = 8;
        reader->at += *reader->at == 0xFF && reader->end - reader->at >= 2 ? 2 : 1;
    }
    return reader->byte >> --reader->bits & 1;
}

static int next_value(struct reader *reader, int count) {
    int value = 0;
    for (int i = 0; i < count; i++) value = value << 1 | next_bit(reader);
    return value;
}

/* Return the next symbol. Where there is none, mostly return 0 (the end of a block), or else any symbol. */
static int next_symbol(struct reader *reader, const struct table *table) {
    for (int length = 1, code = 0; length <= 16 && !reader->is_empty; length++) {
        code = code << 1 | next_bit(reader);
        const int index = code - table->first_code[length];
        if (0 <= index && index < table->lengths[length]) return table->symbols[table->first_index[length] + index];
    }
    return table->bits[0] && below(8) ? 0 : table->symbols[below(table->count)];
}

struct writer {
    uint8_t bytes[MAX_SIZE];
    size_t size;
    int count; /* bits of the last byte that are written */
};

/* Write the lowest `count` bits of a value. Nothing is written behind MAX_SIZE. */
static void put(struct writer *writer, int value, int count) {
    while (count-- && writer->size + 4 < MAX_SIZE) {
        if (!writer->count) writer->bytes[writer->size++] = 0;
        writer->bytes[writer->size - 1] |= (value >> count & 1) << (7 - writer->count);
        writer->count = (writer->count + 1) & 7;
        if (!writer->count && writer->bytes[writer->size - 1] == 0xFF) writer->bytes[writer->size++] = 0;
    }
}

/* Fill the last byte with ones and write a marker. */
static void put_marker(struct writer *writer, int marker) {
    if (writer->count) put(writer, 0xFF, 8 - writer->count);
    put(writer, 0xFF, 8);
    writer->bytes[writer->size - 1] = marker; /* in the place of the zero that follows 0xFF */
}

/* Return the number that `count` bits stand for: EXTEND in the standard. */
static int extended(int value, int count) {
    return count && !(value >> (count - 1)) ? value - (1 << count) + 1 : value;
}

/* Tell whether a coefficient is valid. Some invalid ones pass. */
static int fits(int64_t coefficient, int step) { return llabs(coefficient * step) < 8192 || !below(64); }

/* Copy a block and replace what is invalid in it. Returns 0 if the tables have no code for that. */
static int mend_block(
    struct reader *reader, struct writer *writer, const struct headers *headers, const struct component *component,
    int *prediction) {
    const struct table *dc = &headers->tables[0][component->dc], *ac = &headers->tables[1][component->ac];
    const uint8_t *steps = headers->steps[component->quantization];
    int symbol = next_symbol(reader, dc);
    if (symbol > 15) return 0;
    int value = next_value(reader, symbol);
    if (!fits(*prediction + extended(value, symbol), steps[0]) && dc->bits[0]) symbol = value = 0;
    *prediction += extended(value, symbol);
    put(writer, dc->code[symbol], dc->bits[symbol]);
    put(writer, value, symbol);
    for (int k = 1; k < 64;) {
        symbol = next_symbol(reader, ac);
        int run = symbol >> 4, size = symbol & 15;
        value = next_value(reader, size);
        const int is_valid = size ? k + run < 64 && fits(extended(value, size), steps[k + run])
                                  : run == 0 || (run == 15 && k + 16 <= 64);
        if (!is_valid) {
            if (!ac->bits[0]) return 0;
            symbol = run = size = 0;
        }
        put(writer, ac->code[symbol], ac->bits[symbol]);
        put(writer, value, size);
        if (!symbol) break;
        k += run + 1;
    }
    return 1;
}

/* Write the scan again so that it fits the headers. The input stays as it is where that is impossible. */
static void mend(struct input *input) {
    static struct headers headers;
    static struct writer writer;
    if (!divide(input) || !read_headers(input, &headers)) return;
    struct reader reader = {input->bytes + input->scan, input->bytes + input->scan_end, 0, 0, 0};
    int predictions[3] = {0};
    writer.size = 0, writer.count = 0;
    for (int number = 0; number < headers.mcus; number++) {
        if (number && headers.interval && number % headers.interval == 0) {
            put_marker(&writer, 0xD0 + (number / headers.interval - 1) % 8);
            memset(predictions, 0, sizeof predictions);
        }
        for (int i = 0; i < headers.count; i++)
            for (int k = 0; k < headers.components[i].blocks; k++)
                if (!mend_block(&reader, &writer, &headers, &headers.components[i], &predictions[i])) return;
    }
    put_marker(&writer, 0xD9);
    if (writer.size + 16 < MAX_SIZE)
        replace(input, input->scan, input->scan_end - input->scan, writer.bytes, writer.size);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static struct input input;
    state = 0x9E3779B97F4A7C15u ^ seed;
    for (int i = 0; i < 4; i++) below(2);
    const int change = below(16);
    if (!change || size > MAX_SIZE) return LLVMFuzzerMutate(data, size, max_size);
    memcpy(input.bytes, data, size);
    input.size = size;
    if (!divide(&input)) return LLVMFuzzerMutate(data, size, max_size);
    int is_to_mend = below(8) > 0;
    if (change < 4)
        change_bytes(&input, input.scan_end, OPTIONS), is_to_mend = 0;
    else if (change < 7)
        change_segment(&input);
    else if (change < 9)
        change_scan(&input);
    else if (change < 10)
        cut_scan(&input), is_to_mend = 0;
    else if (change < 12)
        change_frame(&input);
    else if (change < 14)
        change_huffman(&input);
    else
        change_order(&input);
    if (is_to_mend) mend(&input);
    if (input.size > max_size) return LLVMFuzzerMutate(data, size, max_size);
    memcpy(data, input.bytes, input.size);
    return input.size;
}
