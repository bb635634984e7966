/* Texts for the system, which takes UTF-16, from the library's, which are UTF-8. */
#ifndef PROA_ENGINES_WINDOWS_PATH_H
#define PROA_ENGINES_WINDOWS_PATH_H

#include <winsock2.h>
#include <windows.h>

/* A copy, for free(). 0, PROA_EFAULT (no text), PROA_EILSEQ or PROA_ENOMEM. */
int wide_text(const char *text, WCHAR **out);
/* The same for a path: one that is too long for the old limit of 260 characters
 * gets the prefix that lifts it. PROA_ENOENT if it is empty. */
int wide_path(const char *path, WCHAR **out);

#endif
