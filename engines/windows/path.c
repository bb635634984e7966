/* UTF-8 to UTF-16, and paths of any length. */
#include "engines/windows/path.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include <proa/error.h>

/* MAX_PATH less the room for a file's name of 8.3, which CreateDirectoryW() wants
 * to be left. */
#define PATH_SHORT 248

int wide_text(const char *text, WCHAR **out)
{
	int count;

	*out = NULL;
	if (text == NULL)
		return PROA_EFAULT;
	count = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
	if (count <= 0)
		return PROA_EILSEQ;
	*out = malloc((size_t)count * sizeof **out);
	if (*out == NULL)
		return PROA_ENOMEM;
	MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, *out, count);
	return 0;
}

/* "\\?\" and "\\.\" say that nothing is to be interpreted, or a device. */
static bool is_verbatim(const WCHAR *path)
{
	return path[0] == L'\\' && path[1] == L'\\' && (path[2] == L'?' || path[2] == L'.') &&
	       path[3] == L'\\';
}

/* Makes it absolute, which such a path must be, and puts the prefix before it;
 * "\\server\share" becomes "\\?\UNC\server\share". */
static int path_lengthen(WCHAR **path)
{
	DWORD room = GetFullPathNameW(*path, 0, NULL, NULL), length;
	WCHAR *whole;
	size_t skip;
	int error;

	if (room == 0)
		return proa_error_from_system(GetLastError());
	whole = malloc((8 + (size_t)room) * sizeof *whole);
	if (whole == NULL)
		return PROA_ENOMEM;
	length = GetFullPathNameW(*path, room, whole + 8, NULL);
	if (length == 0 || length >= room) {
		/* Where there is no room the current folder has changed meanwhile. */
		error = length == 0 ? proa_error_from_system(GetLastError()) : PROA_ENOENT;
		free(whole);
		return error;
	}
	skip = 4;
	if (is_verbatim(whole + 8)) {
		skip = 8;
	} else if (whole[8] == L'\\' && whole[9] == L'\\') {
		wmemcpy(whole + 2, L"\\\\?\\UNC", 7); /* and the second of its own two */
		skip = 2;
	} else {
		wmemcpy(whole + 4, L"\\\\?\\", 4);
	}
	wmemmove(whole, whole + skip, 8 - skip + length + 1);
	free(*path);
	*path = whole;
	return 0;
}

int wide_path(const char *path, WCHAR **out)
{
	int error = wide_text(path, out);

	if (error == 0 && (*out)[0] == L'\0')
		error = PROA_ENOENT;
	if (error == 0 && wcslen(*out) >= PATH_SHORT && !is_verbatim(*out))
		error = path_lengthen(out);
	if (error < 0) {
		free(*out);
		*out = NULL;
	}
	return error;
}
