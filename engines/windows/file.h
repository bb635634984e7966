/* What serves files on Windows, for those who make such calls themselves. */
#ifndef PROA_ENGINES_WINDOWS_FILE_H
#define PROA_ENGINES_WINDOWS_FILE_H

#include <stdint.h>

/* Our code for what ReadFile(), WriteFile() or the end of one said of `file`: which
 * right is missing, or that it is a directory, is for POSIX an error of its own. 0
 * for what is the end of the file or the stream. */
int file_error(int file, unsigned long code);
/* Before an operation at an offset: 0, PROA_ESPIPE for pipes, sockets, consoles,
 * PROA_EBADF, or PROA_EINVAL for an offset that is none. */
int file_check_place(int file, uint64_t offset);

#endif
