/* What the generated files hold, and where `scan.pyx` finds it. */

#ifndef FASTRNN_TABLES_H
#define FASTRNN_TABLES_H

#include <stdint.h>

/* The stages of one kind, for the first `rows` rows; of the first `linked` there is a step after this one. */
typedef void (*fastrnn_stages)(int64_t frame, int64_t linked, int64_t rows);

/* A cell for one element type and instruction set: its equations as text, and its stages by kind. */
typedef struct {
    const char *equations;
    fastrnn_stages stages[F_KINDS];
} fastrnn_cell;

/* One block of rows of a weight gradient; see fastrnn/backends/tiled/outer.py. */
typedef void (*fastrnn_outer)(int64_t a, int64_t a_stride, int64_t gate_rows, int64_t gap, int64_t b,
                              int64_t b_offsets, int64_t into, int64_t into_stride, int64_t rows, int64_t low,
                              int64_t high, int64_t width, int64_t copied, int first);

/* One generated file. */
typedef struct {
    const char *isa;
    int64_t item_bytes, vector_bytes, registers, fma;
    const fastrnn_cell *cells;
    int64_t count;
    fastrnn_outer outer;
} fastrnn_unit;

extern const fastrnn_unit *const fastrnn_units[]; /* ends with a null pointer */

#endif
