/* What serves files on Windows, file by file, and what they know of one another. */
#ifndef PROA_ENGINES_WINDOWS_FILE_H
#define PROA_ENGINES_WINDOWS_FILE_H

#include "engines/windows/windows.h"

/* Nobody is kept from what we have open: as on other systems. */
#define SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* ---- file.c ---- */

/* Our code for what ReadFile(), WriteFile() or the end of one said of `file`: which
 * right is missing, or that it is a directory, is for POSIX an error of its own. 0
 * for what is the end of the file or the stream. */
int file_error(int file, unsigned long code);
/* Before an operation at an offset: 0, PROA_ESPIPE for pipes, sockets, consoles,
 * PROA_EBADF, or PROA_EINVAL for an offset that is none. */
int file_check_place(int file, uint64_t offset);
bool file_is_directory(HANDLE file);
/* On a disk: places to read from, and a position. */
bool file_has_places(HANDLE file);
/* The same file with other rights; NULL: none. */
HANDLE file_reopen(HANDLE file, DWORD access, DWORD flags);
/* What the handle may do. */
DWORD file_access(HANDLE file);
int file_set_size(HANDLE file, uint64_t size);
int file_stat(HANDLE file, struct proa_stat *out);

/* What file_run() leads to. */

/* ---- name.c ---- */

int32_t name_open(const struct proa_op *op);
int32_t name_stat(const struct proa_op *op);
int32_t name_unlink(const struct proa_op *op);
int32_t name_rename(const struct proa_op *op);
int32_t name_make_folder(const struct proa_op *op);

/* ---- stream.c ---- */

int32_t file_receive(struct proa_op *op);
int32_t file_receive_lent(struct proa_op *op);
int32_t file_send(struct proa_op *op, bool vector);
int32_t file_send_range(struct proa_op *op);
int32_t file_warm(const struct proa_op *op);

#endif
