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

/* Some rows of a weight gradient; see fastrnn/backends/tiled/outer.py. */
typedef void (*fastrnn_outer)(int64_t frame, int64_t low, int64_t high, int64_t more, int64_t rows, int64_t room);

/* One generated file. */
typedef struct {
    const char *isa;
    int64_t item_bytes;
    const fastrnn_cell *cells;
    int64_t count;
    fastrnn_outer outer;
    int64_t outer_room; /* the bytes it needs */
} fastrnn_unit;

extern const fastrnn_unit *const fastrnn_units[]; /* ends with a null pointer */

#endif
