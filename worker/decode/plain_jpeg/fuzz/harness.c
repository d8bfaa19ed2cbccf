/*
 * libFuzzer's entry to plain_jpeg.c, with libjpeg-turbo as the oracle.
 *
 * An input is a JPEG followed by four bytes that choose the square (`struct options`). The harness ends the process if
 *
 *   - AddressSanitizer or UndefinedBehaviorSanitizer finds a fault in plain_jpeg.c. Each piece of the scratch memory is
 *     guarded, so that a write from one piece into the next is found too;
 *   - plain_jpeg.c uses more scratch memory than plain_jpeg_room returns;
 *   - plain_jpeg.c accepts a file that libjpeg-turbo refuses or warns of;
 *   - a pixel of the square differs from libjpeg-turbo's pixels, resized by the plain loops below.
 *
 * The weights of the resize are the caller's. So the harness only needs weights like those of square.py, and
 * `python -m worker.decode.plain_jpeg.fuzz` compares the inputs that were kept with torch's resize.
 */

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <sanitizer/asan_interface.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "only libjpeg-turbo has the pixels that plain_jpeg.c must equal"
#endif

/* -- plain_jpeg.c ------------------------------------------------------------------------------------------------ */

enum { DONE = 0, NOT_PLAIN = 1, NO_ROOM = 2 };

struct axis {
    const int32_t *first, *counts;
    const int16_t *weights;
    int32_t taps, precision, start, end;
};

int plain_jpeg_works(void);
size_t plain_jpeg_room(size_t length, int width, int size, int taps);
int plain_jpeg_square(
    const uint8_t *data, size_t length, int width, int height, int size, const struct axis *across,
    const struct axis *down, uint8_t *scratch, size_t room, uint8_t *out);

/* Bytes before each piece of scratch memory that no instruction may touch, and the number of pieces at most. */
enum { GUARD = 128, PIECES = 16 };

static size_t carved; /* bytes that the pieces would take without guards, at worst */

/* Takes the place of `carve` in plain_jpeg.c. All scratch memory is poisoned but the pieces. */
void *carve(uint8_t **left, size_t size) {
    uint8_t *start = *left + GUARD;
    start += -(uintptr_t)start & 63;
    ASAN_UNPOISON_MEMORY_REGION(start, size);
    *left = start + size;
    carved += size + 63;
    return start;
}

/* -- The square -------------------------------------------------------------------------------------------------- */

/*
 * The last bytes of an input. Zeros choose an image that is not resized, and its centre.
 * tests/fuzz_inputs.py reads them too.
 */
struct options {
    uint8_t side; /* short side of the resized image; 0: as in the file */
    uint8_t size; /* side of the square; 0: the short side; a value above the short side begins again at 1 */
    uint8_t left; /* left edge of the square plus 1; 0: the centre; too large a value begins again at 1 */
    uint8_t top;
};

/* Longest side in pixels, of the image and of the resized image. Others are skipped, because they take long. */
enum { MAX_SIDE = 2048 };

static int up_to(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

static void *allocated(size_t size) {
    void *memory = calloc(size ? size : 1, 1);
    if (!memory) abort();
    return memory;
}

static double keys(double distance) {
    if (distance < 1) return (1.5 * distance - 2.5) * distance * distance + 1;
    return distance < 2 ? ((-0.5 * distance + 2.5) * distance - 4) * distance + 2 : 0;
}

/* Return the range of pixels of an output, as resize_axis in square.py does. */
static void range_of(int output, double scale, int pixels, int *first, int *count) {
    const double stretch = scale > 1 ? scale : 1, center = (output + 0.5) * scale;
    int end = (int)(center + 2 * stretch + 0.5);
    *first = (int)(center - 2 * stretch + 0.5);
    if (center - 2 * stretch + 0.5 < 0) *first = 0;
    *count = (end < pixels ? end : pixels) - *first;
}

/* Return the axis that resize_axis in square.py makes. */
static struct axis make_axis(int pixels, int resized, int start, int size) {
    const double scale = (double)pixels / resized, stretch = scale > 1 ? scale : 1;
    int most_taps = 0;
    for (int i = 0, first, count; i < resized; i++) {
        range_of(i, scale, pixels, &first, &count);
        if (count > most_taps) most_taps = count;
    }
    const int taps = up_to(most_taps, 16), outputs = up_to(size, 8);
    double *weights = allocated(sizeof *weights * resized * taps), largest = 0;
    int32_t *firsts = allocated(sizeof *firsts * outputs), *counts = allocated(sizeof *counts * outputs);
    int16_t *whole = allocated(sizeof *whole * outputs * taps);
    for (int i = 0, first, count; i < resized; i++) {
        double sum = 0, *of_output = weights + (size_t)i * taps;
        range_of(i, scale, pixels, &first, &count);
        for (int j = 0; j < count; j++) sum += of_output[j] = keys(fabs(j + first - (i + 0.5) * scale + 0.5) / stretch);
        for (int j = 0; j < count; j++) {
            of_output[j] /= sum;
            if (of_output[j] > largest) largest = of_output[j];
        }
    }
    int precision = 0;
    while (precision < 22 && (int)(ldexp(largest, precision + 1) + 0.5) < 1 << 15) precision++;
    for (int i = 0; i < outputs * taps; i++) {
        double weight = i / taps < size ? weights[(size_t)start * taps + i] : 0;
        whole[i] = (int16_t)(ldexp(weight, precision) + (weight < 0 ? -0.5 : 0.5));
    }
    int end = 0;
    for (int i = 0; i < size; i++) {
        range_of(start + i, scale, pixels, &firsts[i], &counts[i]);
        if (firsts[i] + counts[i] > end) end = firsts[i] + counts[i];
    }
    for (int i = size; i < outputs; i++) firsts[i] = firsts[0];
    free(weights);
    return (struct axis){firsts, counts, whole, taps, precision, firsts[0], end};
}

static void free_axis(struct axis *axis) {
    free((void *)axis->first), free((void *)axis->counts), free((void *)axis->weights);
}

/* Return one byte of a resize: the sum of pixels that are `step` bytes apart, rounded. */
static uint8_t resized_byte(const struct axis *axis, int output, const uint8_t *pixels, size_t step) {
    const int16_t *weights = axis->weights + (size_t)output * axis->taps;
    int64_t sum = 1 << (axis->precision - 1);
    for (int i = 0; i < axis->counts[output]; i++) sum += weights[i] * pixels[(axis->first[output] + i) * step];
    sum >>= axis->precision;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* -- The oracle -------------------------------------------------------------------------------------------------- */

struct failure {
    struct jpeg_error_mgr manager;
    jmp_buf back;
};

static void fail(j_common_ptr info) { longjmp(((struct failure *)info->err)->back, 1); }

static void be_silent(j_common_ptr info) { (void)info; }

/* What libjpeg-turbo says of a file. */
struct opinion {
    int width, height; /* 0 if it refuses the header */
    int channels;      /* 1 for grey, 3 for Y'CbCr, 0 for any other image */
    uint8_t *pixels;   /* [height][width][channels]; NULL if it refuses the file or warns of it, or was not asked */
};

static struct opinion opinion_of(const uint8_t *data, size_t length, int with_pixels) {
    struct jpeg_decompress_struct info;
    struct failure failure;
    struct opinion opinion = {0, 0, 0, NULL};
    uint8_t *volatile pixels = NULL;
    info.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = fail;
    failure.manager.output_message = be_silent;
    jpeg_create_decompress(&info);
    if (setjmp(failure.back)) {
        free(pixels);
        jpeg_destroy_decompress(&info);
        return (struct opinion){0, 0, 0, NULL};
    }
    jpeg_mem_src(&info, data, length);
    jpeg_read_header(&info, TRUE);
    opinion.width = (int)info.image_width, opinion.height = (int)info.image_height;
    if (info.jpeg_color_space == JCS_YCbCr) opinion.channels = 3;
    if (info.jpeg_color_space == JCS_GRAYSCALE) opinion.channels = 1;
    if (with_pixels && opinion.channels) {
        const size_t stride = (size_t)opinion.width * opinion.channels;
        pixels = allocated(stride * opinion.height);
        info.out_color_space = opinion.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
        info.dct_method = JDCT_ISLOW;
        jpeg_start_decompress(&info);
        while (info.output_scanline < info.output_height) {
            JSAMPROW row = pixels + info.output_scanline * stride;
            jpeg_read_scanlines(&info, &row, 1);
        }
        jpeg_finish_decompress(&info);
        if (info.err->num_warnings)
            free(pixels);
        else
            opinion.pixels = pixels;
    }
    jpeg_destroy_decompress(&info);
    return opinion;
}

/* Return the square [size][size][3] of the oracle's pixels: a horizontal pass, then a vertical one. */
static uint8_t *expected_square(
    const struct opinion *opinion, const struct axis *across, const struct axis *down, int size) {
    const int channels = opinion->channels;
    uint8_t *rows = allocated((size_t)opinion->height * size * channels), *square = allocated((size_t)size * size * 3);
    for (int y = down->start; y < down->end; y++) {
        const uint8_t *pixels = opinion->pixels + (size_t)y * opinion->width * channels;
        for (int i = 0; i < size * channels; i++)
            rows[(size_t)y * size * channels + i] = resized_byte(across, i / channels, pixels + i % channels, channels);
    }
    for (int y = 0; y < size; y++)
        for (int i = 0; i < size * 3; i++) {
            const uint8_t *column = rows + i / 3 * channels + (channels == 3 ? i % 3 : 0);
            square[(size_t)y * size * 3 + i] = resized_byte(down, y, column, (size_t)size * channels);
        }
    free(rows);
    return square;
}

/* -- Entry ------------------------------------------------------------------------------------------------------- */

static size_t inputs, accepted;

static void report(void) { fprintf(stderr, "accepted %zu of %zu inputs\n", accepted, inputs); }

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count, (void)arguments;
    if (!plain_jpeg_works()) {
        fprintf(stderr, "this processor has no AVX2\n");
        exit(1);
    }
    atexit(report);
    return 0;
}

static void die(const char *finding) {
    fprintf(stderr, "%s\n", finding);
    abort();
}

static int modulo(int option, int number, int otherwise) { return option ? (option - 1) % number : otherwise; }

/* Return what plain_jpeg_square returns, with guarded memory that is filled with a byte. */
static int guarded_square(
    const uint8_t *data, size_t length, const struct opinion *header, int size, const struct axis *across,
    const struct axis *down, int filling, uint8_t *out) {
    const int taps = across->taps > down->taps ? across->taps : down->taps;
    const size_t room = plain_jpeg_room(length, header->width, size, taps), whole = room + PIECES * (GUARD + 64);
    uint8_t *scratch = allocated(whole);
    memset(scratch, filling, whole);
    ASAN_POISON_MEMORY_REGION(scratch, whole);
    carved = 0;
    const int outcome =
        plain_jpeg_square(data, length, header->width, header->height, size, across, down, scratch, whole, out);
    ASAN_UNPOISON_MEMORY_REGION(scratch, whole);
    free(scratch);
    if (carved > room) die("plain_jpeg.c uses more memory than plain_jpeg_room returns");
    return outcome;
}

/* Compare a square with the oracle's. */
static void check(
    const uint8_t *data, size_t length, const struct axis *across, const struct axis *down, int size,
    const uint8_t *square) {
    struct opinion opinion = opinion_of(data, length, 1);
    if (!opinion.pixels) die("plain_jpeg.c accepts a file that libjpeg-turbo refuses or warns of");
    uint8_t *expected = expected_square(&opinion, across, down, size);
    for (int i = 0; i < size * size * 3; i++)
        if (square[i] != expected[i]) {
            fprintf(
                stderr, "row %d, column %d, channel %d: %d instead of %d\n", i / (size * 3), i / 3 % size, i % 3,
                square[i], expected[i]);
            die("the pixels of plain_jpeg.c are not libjpeg-turbo's");
        }
    free(expected), free(opinion.pixels);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length) {
    struct options options;
    if (length < sizeof options) return 0;
    length -= sizeof options;
    memcpy(&options, input + length, sizeof options);
    /* An allocation of its own, so that a read behind the file is found. */
    uint8_t *data = allocated(length);
    memcpy(data, input, length);
    inputs++;

    struct opinion header = opinion_of(data, length, 0);
    /* The worker gives plain_jpeg.c no file whose header libjpeg-turbo refuses. Such a file must do no harm either. */
    if (!header.width) header.width = header.height = 64;
    const int least = header.width < header.height ? header.width : header.height;
    const int most = header.width < header.height ? header.height : header.width;
    const int side = options.side ? options.side : least;
    const int width = (int)((double)side * header.width / least);
    const int height = (int)((double)side * header.height / least);
    if (most <= MAX_SIDE && width <= MAX_SIDE && height <= MAX_SIDE) {
        const int size = 1 + modulo(options.size, side, side - 1);
        const int left = modulo(options.left, width - size + 1, (width - size) / 2);
        const int top = modulo(options.top, height - size + 1, (height - size) / 2);
        struct axis across = make_axis(header.width, width, left, size);
        struct axis down = make_axis(header.height, height, top, size);
        uint8_t *square = allocated((size_t)size * size * 3);
        /* No result may depend on what the memory holds. Zeros lead furthest behind the end of a scan. */
        const int filling = options.left & 1 ? 0xA5 : 0;
        if (guarded_square(data, length, &header, size, &across, &down, filling, square) == DONE) {
            accepted++;
            check(data, length, &across, &down, size, square);
        }
        free(square);
        free_axis(&across), free_axis(&down);
    }
    free(data);
    return 0;
}
