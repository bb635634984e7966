/* engines/windows: files, paths, processes, pipes, console events. The program starts
 * itself for what needs a child. */
#include <fcntl.h>
#include <io.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include <winsock2.h>
#include <windows.h>

#include <cmocka.h>

#include <proa/proa.h>

#include "engines/windows/file.h"
#include "engines/windows/path.h"
#include "engines/windows/signal.h"
#include "engines/windows/windows.h"
#include "lib/thread.h"

#define READ_WRITE (PROA_OPEN_READ | PROA_OPEN_WRITE)

static char program[MAX_PATH]; /* our own path */

/* ---- tools -------------------------------------------------------------------------- */

/* As a worker would do it. */
static int32_t run(struct proa_op *op)
{
	memset(op->room_, 0, sizeof op->room_);
	return file_run(op);
}

static int32_t do_open(const char *path, uint32_t how)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_open(&op, path, how, 0666);
	return run(&op);
}

/* Handles may be negative as ints, but not small. */
static int must_open(const char *path, uint32_t how)
{
	int32_t file = do_open(path, how);

	if (file < 0)
		print_error("%s: %s\n", path, proa_error_name(file));
	assert_true(file > 0);
	return file;
}

static void must_close(int file)
{
	assert_true(CloseHandle(windows_handle_of(file)));
}

static int32_t do_read(int file, void *room, size_t size, uint64_t offset)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_read(&op, file, room, size, offset);
	return run(&op);
}

static int32_t do_write(int file, const char *text, uint64_t offset)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_write(&op, file, text, strlen(text), offset);
	return run(&op);
}

static int32_t do_unlink(const char *path)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_unlink(&op, path);
	return run(&op);
}

static int32_t do_rename(const char *from, const char *to)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_rename(&op, from, to);
	return run(&op);
}

static int32_t do_mkdir(const char *path)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_mkdir(&op, path, 0777);
	return run(&op);
}

static int32_t do_stat(const char *path, struct proa_stat *out)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_stat(&op, path, out);
	return run(&op);
}

static int32_t do_truncate(int file, uint64_t size)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_truncate(&op, file, size);
	return run(&op);
}

static int32_t do_sync(int file)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_sync(&op, file, 0);
	return run(&op);
}

static void make_file(const char *path, const char *text)
{
	int file = must_open(path, READ_WRITE | PROA_OPEN_CREATE | PROA_OPEN_TRUNCATE);

	assert_int_equal(do_write(file, text, 0), (int)strlen(text));
	must_close(file);
}

static void expect_content(const char *path, const char *text)
{
	char room[256];
	int file = must_open(path, PROA_OPEN_READ);
	int32_t got = do_read(file, room, sizeof room - 1, 0);

	assert_true(got >= 0);
	room[got] = '\0';
	assert_string_equal(room, text);
	must_close(file);
}

/* An empty folder of the test's own to be in. */
static char home[MAX_PATH];

static void empty(const WCHAR *folder)
{
	WCHAR path[MAX_PATH * 2];
	WIN32_FIND_DATAW found;
	HANDLE search;

	swprintf(path, MAX_PATH * 2, L"%ls\\*", folder);
	search = FindFirstFileW(path, &found);
	if (search == INVALID_HANDLE_VALUE)
		return;
	do {
		if (wcscmp(found.cFileName, L".") == 0 || wcscmp(found.cFileName, L"..") == 0)
			continue;
		swprintf(path, MAX_PATH * 2, L"%ls\\%ls", folder, found.cFileName);
		SetFileAttributesW(path, FILE_ATTRIBUTE_NORMAL);
		if (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) {
			empty(path);
			RemoveDirectoryW(path);
		} else {
			DeleteFileW(path);
		}
	} while (FindNextFileW(search, &found));
	FindClose(search);
}

static int clean(void **state)
{
	(void)state;
	if (!SetCurrentDirectoryA(home))
		return -1;
	empty(L".");
	return 0;
}

static bool on_wine(void)
{
	return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

static DWORD handles_open(void)
{
	DWORD count = 0;

	GetProcessHandleCount(GetCurrentProcess(), &count);
	return count;
}

/* ---- files ----------------------------------------------------------------------------- */

static void opens(void **state)
{
	char room[8];
	int file;

	(void)state;
	assert_int_equal(do_open("new", PROA_OPEN_READ), PROA_ENOENT);
	assert_int_equal(do_open("no/such", PROA_OPEN_READ), PROA_ENOENT);
	assert_int_equal(do_open("", PROA_OPEN_READ), PROA_ENOENT);
	assert_int_equal(do_open(NULL, PROA_OPEN_READ), PROA_EFAULT);
	assert_int_equal(do_open("\xff\xfe", PROA_OPEN_READ), PROA_EILSEQ);
	assert_int_equal(do_open("new", 0), PROA_EINVAL);
	assert_int_equal(do_open("new", 0x1000 | PROA_OPEN_READ), PROA_EINVAL);
	assert_int_equal(do_open("new", PROA_OPEN_READ | PROA_OPEN_TRUNCATE), PROA_EINVAL);
	assert_int_equal(do_open("new", PROA_OPEN_READ | PROA_OPEN_APPEND), PROA_EINVAL);
	assert_int_equal(do_open("new", PROA_OPEN_WRITE | PROA_OPEN_EXCLUSIVE), PROA_EINVAL);
	make_file("new", "abcdef");
	/* Created again it is what it was, and exclusively it is not. */
	file = must_open("new", PROA_OPEN_READ | PROA_OPEN_CREATE);
	assert_int_equal(do_read(file, room, 8, 0), 6);
	assert_int_equal(do_write(file, "x", 0), PROA_EBADF);
	must_close(file);
	assert_int_equal(do_open("new", PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_EXCLUSIVE),
		PROA_EEXIST);
	file = must_open("new", PROA_OPEN_WRITE | PROA_OPEN_TRUNCATE);
	assert_int_equal(do_read(file, room, 8, 0), PROA_EBADF);
	must_close(file);
	expect_content("new", "");
	assert_int_equal(do_open("new", PROA_OPEN_READ | PROA_OPEN_DIRECTORY), PROA_ENOTDIR);
	assert_int_equal(do_open("new/inside", PROA_OPEN_READ), PROA_ENOTDIR);
	assert_int_equal(do_open("new/far/inside", PROA_OPEN_READ), PROA_ENOTDIR);
}

static void opens_folders(void **state)
{
	char room[8];
	int folder;

	(void)state;
	assert_int_equal(do_open(".", PROA_OPEN_WRITE), PROA_EISDIR);
	assert_int_equal(do_open(".", READ_WRITE | PROA_OPEN_CREATE), PROA_EISDIR);
	folder = must_open(".", PROA_OPEN_READ | PROA_OPEN_DIRECTORY);
	assert_int_equal(do_read(folder, room, 8, 0), PROA_EISDIR);
	assert_int_equal(do_truncate(folder, 0), PROA_EINVAL);
	must_close(folder);
	folder = must_open(".", PROA_OPEN_DIRECTORY);
	must_close(folder);
}

static void created_for_reading_alone(void **state)
{
	struct proa_stat facts;
	struct proa_op op;
	int32_t file;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	proa_prep_open(&op, "fixed", PROA_OPEN_WRITE | PROA_OPEN_CREATE, 0444);
	file = run(&op);
	assert_true(file > 0);
	assert_int_equal(do_write(file, "once", 0), 4); /* this one may */
	must_close(file);
	assert_int_equal(do_stat("fixed", &facts), 0);
	assert_int_equal(facts.mode & 0777, 0444);
	file = do_open("fixed", PROA_OPEN_WRITE);
	if (file > 0 && on_wine()) {
		print_message("not shown: wine run by root writes to any file\n");
		must_close(file);
	} else {
		assert_int_equal(file, PROA_EACCES);
	}
	/* To remove it is the folder's right. */
	assert_int_equal(do_unlink("fixed"), 0);
	assert_int_equal(do_stat("fixed", &facts), PROA_ENOENT);
}

static void reads_and_writes(void **state)
{
	char room[32] = "";
	int file = must_open("file", READ_WRITE | PROA_OPEN_CREATE);

	(void)state;
	assert_int_equal(do_write(file, "hello world", 0), 11);
	assert_int_equal(do_write(file, "W", 6), 1);
	assert_int_equal(do_read(file, room, sizeof room, 0), 11);
	assert_memory_equal(room, "hello World", 11);
	assert_int_equal(do_read(file, room, 3, 6), 3);
	assert_memory_equal(room, "Wor", 3);
	assert_int_equal(do_read(file, room, sizeof room, 11), 0);
	assert_int_equal(do_read(file, room, sizeof room, 1000), 0);
	assert_int_equal(do_read(file, room, 0, 0), 0);
	/* A hole is zeros. */
	assert_int_equal(do_write(file, "!", 20), 1);
	assert_int_equal(do_read(file, room, sizeof room, 11), 10);
	assert_memory_equal(room, "\0\0\0\0\0\0\0\0\0!", 10);
	/* Far out. */
	assert_int_equal(do_write(file, "far", UINT64_C(5) << 32), 3);
	assert_int_equal(do_read(file, room, 8, (UINT64_C(5) << 32) + 1), 2);
	assert_memory_equal(room, "ar", 2);
	assert_int_equal(do_read(file, room, 8, UINT64_C(1) << 63), PROA_EINVAL);
	assert_int_equal(do_read(file, room, SIZE_MAX, 0), PROA_EINVAL);
	assert_int_equal(do_read(file, NULL, 8, 0), PROA_EFAULT);
	assert_int_equal(do_write(file, "x", INT64_MAX), PROA_EINVAL);
	must_close(file);
	assert_int_equal(do_read(file, room, 8, 0), PROA_EBADF);
}

static void vectors(void **state)
{
	char one[3], two[4], three[8];
	struct proa_slice from[] = { { 3, "abc" }, { 0, NULL }, { 5, "defgh" } };
	struct proa_slice to[] = { { 3, one }, { 4, two }, { 8, three } };
	struct proa_slice huge[] = { { 0x7ffff000, one }, { 1, two } };
	int file = must_open("file", READ_WRITE | PROA_OPEN_CREATE);
	struct proa_op op;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	proa_prep_writev(&op, file, from, 3, 2);
	assert_int_equal(run(&op), 8);
	assert_int_equal(flight(&op)->moved, 8);
	proa_prep_readv(&op, file, to, 3, 2);
	assert_int_equal(run(&op), 8);
	assert_memory_equal(one, "abc", 3);
	assert_memory_equal(two, "defg", 4);
	assert_memory_equal(three, "h", 1);
	proa_prep_readv(&op, file, huge, 2, 0);
	assert_int_equal(run(&op), PROA_EINVAL);
	must_close(file);
}

/* Whatever the offset says; to cut such a file is allowed, too. */
static void appends(void **state)
{
	struct proa_op op;
	int file;

	(void)state;
	make_file("log", "one ");
	file = must_open("log", PROA_OPEN_WRITE | PROA_OPEN_APPEND);
	assert_int_equal(do_write(file, "two ", 0), 4);
	assert_int_equal(do_write(file, "three ", 1), 6);
	proa_op_init(&op, NULL, NULL);
	proa_prep_send(&op, file, "four", 4, 0);
	assert_int_equal(run(&op), 4);
	expect_content("log", "one two three four");
	assert_int_equal(do_truncate(file, 3), 0);
	assert_int_equal(do_write(file, "!", 0), 1);
	expect_content("log", "one!");
	must_close(file);
	file = must_open("log", PROA_OPEN_WRITE | PROA_OPEN_APPEND | PROA_OPEN_TRUNCATE);
	expect_content("log", "");
	assert_int_equal(do_write(file, "anew", 100), 4);
	must_close(file);
	expect_content("log", "anew");
}

/* Others may read, write, rename and remove what is open. */
static void nobody_is_kept_out(void **state)
{
	char room[8];
	int file, other;

	(void)state;
	make_file("file", "abc");
	file = must_open("file", READ_WRITE);
	other = must_open("file", READ_WRITE);
	assert_int_equal(do_write(other, "x", 0), 1);
	assert_int_equal(do_rename("file", "moved"), 0);
	assert_int_equal(do_open("file", PROA_OPEN_READ), PROA_ENOENT);
	assert_int_equal(do_unlink("moved"), 0);
	assert_int_equal(do_read(file, room, 8, 0), 3);
	assert_memory_equal(room, "xbc", 3);
	must_close(other);
	must_close(file);
	assert_int_equal(do_open("moved", PROA_OPEN_READ), PROA_ENOENT);
}

static int32_t do_recv(int file, char *room, size_t size, uint32_t flags)
{
	struct proa_op op;

	proa_op_init(&op, NULL, NULL);
	proa_prep_recv(&op, file, room, size, flags);
	return run(&op);
}

/* Receives and sends read and write on. */
static void streams(void **state)
{
	struct proa_slice parts[] = { { 2, "12" }, { 2, "34" } };
	char room[16];
	struct proa_op op;
	int file;

	(void)state;
	make_file("file", "abcdefgh");
	file = must_open("file", READ_WRITE);
	assert_int_equal(do_recv(file, room, 3, PROA_PEEK), 3);
	assert_memory_equal(room, "abc", 3);
	assert_int_equal(do_recv(file, room, 3, 0), 3);
	assert_memory_equal(room, "abc", 3);
	assert_int_equal(do_recv(file, room, 2, PROA_ALL), 2);
	assert_memory_equal(room, "de", 2);
	/* Reads at a place don't move it. */
	assert_int_equal(do_read(file, room, 8, 0), 8);
	proa_op_init(&op, NULL, NULL);
	proa_prep_sendv(&op, file, parts, 2, 0);
	assert_int_equal(run(&op), 4);
	assert_int_equal(do_recv(file, room, 8, PROA_ALL), 0);
	must_close(file);
	expect_content("file", "abcde1234");
}

/* A file that others have opened has a position that is theirs; ours is to read it at
 * places all the same. */
static void plain_handles(void **state)
{
	const LARGE_INTEGER here = { .QuadPart = 0 };
	struct proa_range range = { .offset = 1, .length = 7 };
	LARGE_INTEGER position = { .QuadPart = 3 };
	struct proa_op op;
	HANDLE plain;
	char room[16];
	int target;

	(void)state;
	make_file("file", "0123456789");
	for (int alone = 0; alone < 2; alone++) { /* nobody else may open it */
		plain = CreateFileA("file", GENERIC_READ | GENERIC_WRITE, alone ? 0 : 7, NULL,
			OPEN_EXISTING, 0, NULL);
		assert_true(plain != INVALID_HANDLE_VALUE);
		position.QuadPart = 3;
		assert_true(SetFilePointerEx(plain, position, NULL, FILE_BEGIN));
		assert_int_equal(do_read(windows_file(plain), room, 2, 8), 2);
		assert_memory_equal(room, "89", 2);
		assert_int_equal(do_write(windows_file(plain), "x", 9), 1);
		assert_int_equal(do_recv(windows_file(plain), room, 2, PROA_PEEK), 2);
		assert_memory_equal(room, "34", 2);
		target = must_open("target", PROA_OPEN_WRITE | PROA_OPEN_CREATE);
		range.file = windows_file(plain);
		proa_op_init(&op, NULL, NULL);
		proa_prep_sendfile(&op, target, &range, 0);
		assert_int_equal(run(&op), 7);
		must_close(target);
		expect_content("target", "1234567");
		assert_true(SetFilePointerEx(plain, here, &position, FILE_CURRENT));
		assert_int_equal(position.QuadPart, 3);
		/* Receives do move it. */
		assert_int_equal(do_recv(windows_file(plain), room, 2, 0), 2);
		assert_memory_equal(room, "34", 2);
		assert_true(SetFilePointerEx(plain, here, &position, FILE_CURRENT));
		assert_int_equal(position.QuadPart, 5);
		assert_int_equal(do_write(windows_file(plain), "9", 9), 1);
		CloseHandle(plain);
	}
	expect_content("file", "0123456789");
}

static void sends_file(void **state)
{
	struct proa_range range = { .offset = 2, .length = 5 };
	int source, target;
	struct proa_op op;

	(void)state;
	make_file("source", "0123456789");
	source = must_open("source", PROA_OPEN_READ);
	target = must_open("target", PROA_OPEN_WRITE | PROA_OPEN_CREATE);
	range.file = source;
	proa_op_init(&op, NULL, NULL);
	for (int i = 0; i < 2; i++) {
		proa_prep_sendfile(&op, target, &range, 0);
		assert_int_equal(run(&op), 5);
	}
	expect_content("target", "2345623456");
	/* The file is shorter: what there was has gone. */
	range.length = 100;
	proa_prep_sendfile(&op, target, &range, 0);
	assert_int_equal(run(&op), PROA_EIO);
	assert_int_equal(flight(&op)->moved, 8);
	/* To warm it sends nothing. */
	proa_prep_sendfile(&op, target, &range, 0);
	op.flags_ |= PROA_WARM_;
	assert_int_equal(run(&op), FILE_WARMED);
	range.offset = UINT64_MAX;
	proa_prep_sendfile(&op, target, &range, 0);
	assert_int_equal(run(&op), PROA_EINVAL);
	must_close(target);
	must_close(source);
	expect_content("target", "234562345623456789");
}

static int64_t now_ns(void)
{
	FILETIME now;

	GetSystemTimeAsFileTime(&now);
	return ((int64_t)((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime) -
		       INT64_C(116444736000000000)) *
	       100;
}

static void stats(void **state)
{
	const int64_t slack = 5 * PROA_SECOND;
	int64_t now = now_ns();
	struct proa_stat facts, again;
	struct proa_op op;
	int file;

	(void)state;
	make_file("file", "12345");
	assert_true(CreateHardLinkA("second", "file", NULL));
	assert_int_equal(do_stat("file", &facts), 0);
	assert_int_equal(facts.size, 5);
	assert_int_equal(facts.mode, 0100666);
	assert_int_equal(facts.links, 2);
	assert_in_range(facts.modified, now - slack, now + slack);
	assert_in_range(facts.accessed, now - slack, now + slack);
	file = must_open("second", PROA_OPEN_READ);
	proa_op_init(&op, NULL, NULL);
	proa_prep_fstat(&op, file, &again);
	assert_int_equal(run(&op), 0);
	assert_int_equal(again.inode, facts.inode);
	assert_int_equal(again.device, facts.device);
	assert_int_equal(again.size, 5);
	must_close(file);
	assert_int_equal(do_stat(".", &facts), 0);
	assert_int_equal(facts.mode & 0170000, 0040000);
	assert_int_equal(do_stat("nothing", &facts), PROA_ENOENT);
	assert_int_equal(do_stat("file/inside", &facts), PROA_ENOTDIR);
	proa_prep_fstat(&op, 0x7ffffff0, &again);
	assert_int_equal(run(&op), PROA_EBADF);
}

static void truncates_and_syncs(void **state)
{
	char room[32];
	int file;

	(void)state;
	make_file("file", "abcdefgh");
	file = must_open("file", READ_WRITE);
	assert_int_equal(do_truncate(file, 3), 0);
	assert_int_equal(do_truncate(file, 6), 0);
	assert_int_equal(do_read(file, room, sizeof room, 0), 6);
	assert_memory_equal(room, "abc\0\0\0", 6);
	assert_int_equal(do_truncate(file, UINT64_MAX), PROA_EINVAL);
	assert_int_equal(do_sync(file), 0);
	must_close(file);
	file = must_open("file", PROA_OPEN_READ);
	assert_int_equal(do_truncate(file, 1), PROA_EINVAL);
	assert_int_equal(do_sync(file), 0);
	must_close(file);
	assert_int_equal(do_sync(file), PROA_EBADF);
}

static void renames(void **state)
{
	int open_one;

	(void)state;
	make_file("a", "a");
	make_file("b", "b");
	assert_int_equal(do_rename("a", "b"), 0); /* over what is there */
	expect_content("b", "a");
	assert_int_equal(do_rename("a", "c"), PROA_ENOENT);
	assert_int_equal(do_rename("b", "no/such"), PROA_ENOENT);
	assert_int_equal(do_rename("b", "b"), 0);
	assert_int_equal(do_mkdir("d"), 0);
	assert_int_equal(do_mkdir("d"), PROA_EEXIST);
	assert_int_equal(do_mkdir("no/such"), PROA_ENOENT);
	assert_int_equal(do_mkdir("b/inside"), PROA_ENOTDIR);
	assert_int_equal(do_rename("b", "d"), PROA_EISDIR);
	assert_int_equal(do_rename("d", "b"), PROA_ENOTDIR);
	assert_int_equal(do_mkdir("e"), 0);
	make_file("d/file", "inside");
	assert_int_equal(do_rename("e", "d"), PROA_ENOTEMPTY);
	assert_int_equal(do_rename("d", "e"), 0); /* over an empty one */
	expect_content("e/file", "inside");
	assert_int_equal(do_unlink("e"), PROA_EISDIR);
	assert_int_equal(do_unlink("nothing"), PROA_ENOENT);
	assert_int_equal(do_unlink("b/inside"), PROA_ENOTDIR);
	/* An open source. */
	open_one = must_open("e/file", PROA_OPEN_READ);
	assert_int_equal(do_rename("e/file", "f"), 0);
	must_close(open_one);
	expect_content("f", "inside");
}

/* Names in other scripts, and longer than the old limit. */
static void odd_names(void **state)
{
	static const char name[] =
		"\xc3\xbc\xe2\x82\xac\xf0\x9f\x8c\x8d"; /* u-umlaut, euro, globe */
	char path[1024] = "";
	struct proa_stat facts;
	WCHAR *wide;

	(void)state;
	make_file(name, "odd");
	assert_true(GetFileAttributesW(L"\u00fc\u20ac\U0001f30d") != INVALID_FILE_ATTRIBUTES);
	expect_content(name, "odd");
	assert_int_equal(do_unlink(name), 0);
	for (int i = 0; i < 6; i++) {
		if (i > 0)
			strcat(path, "/");
		memset(path + strlen(path), 'a' + i, 80);
		assert_int_equal(do_mkdir(path), 0);
	}
	strcat(path, "/file");
	assert_true(strlen(path) > MAX_PATH);
	make_file(path, "deep");
	expect_content(path, "deep");
	assert_int_equal(do_stat(path, &facts), 0);
	assert_int_equal(facts.size, 4);
	assert_int_equal(do_unlink(path), 0);
	/* Not only what is long but what it would be if it were whole. */
	memset(path, 'x', 300);
	memcpy(path, "\\\\server\\share\\", 15);
	path[300] = '\0';
	assert_int_equal(wide_path(path, &wide), 0);
	assert_true(wcsncmp(wide, L"\\\\?\\UNC\\server\\share\\x", 21) == 0);
	free(wide);
	memcpy(path, "\\\\?\\C:\\", 7);
	assert_int_equal(wide_path(path, &wide), 0);
	assert_true(wcsncmp(wide, L"\\\\?\\C:\\r", 8) == 0); /* as it was */
	free(wide);
	SetCurrentDirectoryA(home);
}

/* A file that is a completion port's: the workers' calls leave no packets there. */
static void keeps_packets_off_ports(void **state)
{
	char room[8];
	DWORD bytes;
	ULONG_PTR key;
	OVERLAPPED *done;
	HANDLE port;
	int file = must_open("file", READ_WRITE | PROA_OPEN_CREATE);

	(void)state;
	port = CreateIoCompletionPort(windows_handle_of(file), NULL, 1, 1);
	assert_non_null(port);
	assert_int_equal(do_write(file, "abc", 0), 3);
	assert_int_equal(do_read(file, room, 8, 0), 3);
	assert_int_equal(do_read(file, room, 8, 3), 0);
	assert_false(GetQueuedCompletionStatus(port, &bytes, &key, &done, 50));
	assert_null(done);
	CloseHandle(port);
	must_close(file);
}

static void device(void **state)
{
	char room[8];
	int file = must_open("NUL", READ_WRITE);
	struct proa_stat facts;
	struct proa_op op;

	(void)state;
	assert_int_equal(do_write(file, "abc", 0), 3);
	assert_int_equal(do_read(file, room, 8, 0), 0);
	assert_int_equal(do_truncate(file, 0), PROA_EINVAL);
	assert_int_equal(do_sync(file), PROA_EINVAL);
	proa_op_init(&op, NULL, NULL);
	proa_prep_fstat(&op, file, &facts);
	assert_int_equal(run(&op), 0);
	assert_int_equal(facts.mode & 0170000, 0020000);
	assert_int_equal(facts.links, 1);
	must_close(file);
}

/* ---- pipes -------------------------------------------------------------------------------- */

static struct proa_port *make_port(void)
{
	struct proa_port *port;

	assert_int_equal(proa_port_open(NULL, &port), 0);
	return port;
}

static void pipes(void **state)
{
	struct proa_port *port = make_port();
	proa_handle ours, theirs;
	struct proa_stat facts;
	char room[16];
	DWORD done, flags;

	(void)state;
	for (int reading = 0; reading < 2; reading++) {
		assert_int_equal(proa_pipe(port, reading, &ours, &theirs), 0);
		assert_true(GetHandleInformation(windows_handle_of((int)theirs), &flags));
		assert_int_equal(flags & HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT);
		assert_true(GetHandleInformation(windows_handle_of((int)ours), &flags));
		assert_int_equal(flags & HANDLE_FLAG_INHERIT, 0);
		assert_int_equal(do_read((int)theirs, room, 8, 0), PROA_ESPIPE);
		assert_int_equal(do_sync((int)theirs), PROA_EINVAL);
		assert_int_equal(file_stat(windows_handle_of((int)theirs), &facts), 0);
		assert_int_equal(facts.mode & 0170000, 0010000);
		if (reading) {
			assert_true(
				WriteFile(windows_handle_of((int)theirs), "abc", 3, &done, NULL));
			/* As a worker does it, with overlapped and plain ends alike. */
			assert_int_equal(do_recv((int)ours, room, 16, 0), 3);
		} else {
			struct proa_op op;

			proa_op_init(&op, NULL, NULL);
			proa_prep_send(&op, ours, "abc", 3, 0);
			assert_int_equal(run(&op), 3);
			assert_int_equal(do_recv((int)theirs, room, 3, PROA_ALL), 3);
		}
		assert_memory_equal(room, "abc", 3);
		must_close((int)theirs);
		if (reading)
			assert_int_equal(do_recv((int)ours, room, 16, 0), 0);
		assert_int_equal(proa_discard(port, ours), 0);
	}
	assert_int_equal(proa_port_close(port), 0);
}

static THREAD_RETURN run_main(void *op)
{
	((struct proa_op *)op)->flags_ = (uint32_t)run(op);
	return THREAD_DONE;
}

/* Ends an op that a worker is stuck in: its result. */
static int32_t interrupt_run(struct proa_op *op, bool late)
{
	thread_id thread;

	if (!late)
		op->options_ |= OPT_CANCEL; /* before the worker comes to it */
	assert_int_equal(thread_start(&thread, run_main, op), 0);
	if (late) {
		assert_int_equal(WaitForSingleObject(thread, 100), WAIT_TIMEOUT);
		op->options_ |= OPT_CANCEL;
		file_interrupt(op);
	}
	assert_int_equal(WaitForSingleObject(thread, 10000), WAIT_OBJECT_0);
	CloseHandle(thread);
	return (int32_t)op->flags_;
}

/* A peer that never reads nor writes holds no worker for ever: at an overlapped end
 * nor at a plain one. */
static void interrupts(void **state)
{
	static char bytes[1 << 20];
	struct proa_port *port = make_port();
	proa_handle ends[2]; /* overlapped, plain */
	struct proa_op op;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	for (int end = 0; end < 2; end++)
		for (int late = 0; late < 2; late++) {
			bool reading = end == 0;

			assert_int_equal(proa_pipe(port, reading, &ends[0], &ends[1]), 0);
			proa_prep_recv(&op, ends[end], bytes, sizeof bytes, 0);
			assert_int_equal(interrupt_run(&op, late), PROA_ECANCELED);
			assert_int_equal(flight(&op)->moved, 0);
			must_close((int)ends[1]);
			assert_int_equal(proa_discard(port, ends[0]), 0);

			assert_int_equal(proa_pipe(port, !reading, &ends[0], &ends[1]), 0);
			proa_prep_send(&op, ends[end], bytes, sizeof bytes, 0);
			assert_int_equal(interrupt_run(&op, late), PROA_ECANCELED);
			assert_true(flight(&op)->moved < sizeof bytes);
			must_close((int)ends[1]);
			assert_int_equal(proa_discard(port, ends[0]), 0);
		}
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- processes --------------------------------------------------------------------------- */

/* What a child of ours does: argv[1] says. */
static int play_child(int argc, char **argv)
{
	if (strcmp(argv[1], "exit") == 0)
		return atoi(argv[2]);
	if (strcmp(argv[1], "sleep") == 0)
		Sleep(100000);
	if (strcmp(argv[1], "crash") == 0)
		ExitProcess(strtoul(argv[2], NULL, 16)); /* as the system would end it */
	_setmode(1, _O_BINARY);
	if (strcmp(argv[1], "arguments") == 0)
		for (int i = 2; i < argc; i++)
			printf("<%s>", argv[i]);
	if (strcmp(argv[1], "environment") == 0) {
		for (int i = 2; i < argc; i++)
			printf("%s;", getenv(argv[i]) == NULL ? "-" : getenv(argv[i]));
	}
	if (strcmp(argv[1], "directory") == 0) {
		char folder[MAX_PATH];

		GetCurrentDirectoryA(sizeof folder, folder);
		printf("%s", folder);
	}
	if (strcmp(argv[1], "handle") == 0) { /* is it open here? */
		DWORD flags;
		HANDLE handle = (HANDLE)(uintptr_t)strtoull(argv[2], NULL, 10);

		printf("%d", GetHandleInformation(handle, &flags) &&
				     GetFileType(handle) == FILE_TYPE_DISK);
	}
	if (strcmp(argv[1], "copy") == 0) { /* 0 to 1 and 2 */
		char room[64];
		int got;

		_setmode(0, _O_BINARY);
		while ((got = _read(0, room, sizeof room)) > 0) {
			_write(1, room, (unsigned)got);
			_write(2, "!", 1);
		}
	}
	return 0;
}

static struct proa_exit wait_child(struct proa_port *port, proa_process process)
{
	struct proa_exit end;
	struct proa_completion c;
	struct proa_op op;
	int got;

	memset(&end, 0xee, sizeof end);
	proa_op_init(&op, port, NULL);
	proa_prep_child(&op, process, &end);
	proa_submit(&op, NULL);
	while ((got = proa_wait(port, &c, 1, 20 * PROA_SECOND)) == 0)
		fail_msg("no end of the child");
	assert_int_equal(got, 1);
	assert_ptr_equal(c.op, &op);
	assert_int_equal(c.result, 0);
	return end;
}

/* What a child of ours writes; its code is 0. */
static void output_of(struct proa_command command, char *text, size_t size)
{
	struct proa_port *port = make_port();
	proa_handle standard[3], ours, theirs;
	proa_process process;
	size_t length = 0;
	int32_t got;

	assert_int_equal(proa_pipe(port, 1, &ours, &theirs), 0);
	for (int i = 0; i < 3; i++)
		standard[i] = theirs;
	command.standard = standard;
	assert_int_equal(proa_spawn(&command, &process), 0);
	must_close((int)theirs);
	while ((got = do_recv((int)ours, text + length, size - 1 - length, 0)) > 0)
		length += (size_t)got;
	assert_int_equal(got, 0);
	text[length] = '\0';
	assert_int_equal(wait_child(port, process).code, 0);
	assert_int_equal(proa_discard(port, ours), 0);
	assert_int_equal(proa_port_close(port), 0);
}

/* Every way that quotes, backslashes and blanks can meet. */
static void passes_arguments(void **state)
{
	static const char *const words[] = { "plain", "", "two words", "tab\tbed", "\"", "a\"b",
		"\\", "a\\", "two words\\", "\\\"", "\\\\\"x", "\\\\server\\share",
		"c:\\dir with\\\\", "*", "%PATH%", "^&|<>", "'single'" };
	enum { COUNT = sizeof words / sizeof words[0] };
	const char *arguments[COUNT + 3] = { program, "arguments" };
	struct proa_command command = { .arguments = arguments };
	char text[1024], expected[1024] = "";

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		arguments[i + 2] = words[i];
		sprintf(expected + strlen(expected), "<%s>", words[i]);
	}
	output_of(command, text, sizeof text);
	assert_string_equal(text, expected);
}

static void sets_environment_and_directory(void **state)
{
	const char *show[] = { program, "environment", "ONE", "TWO", "HOME_OF_OURS", NULL };
	const char *const where[] = { program, "directory", NULL };
	static const char *const environment[] = { "two=zwei", "ONE=1", NULL };
	static const char *const nothing[] = { NULL };
	struct proa_command command = { .arguments = show };
	char text[1024], expected[MAX_PATH + 10];

	(void)state;
	SetEnvironmentVariableA("ONE", "eins");
	SetEnvironmentVariableA("TWO", NULL);
	SetEnvironmentVariableA("HOME_OF_OURS", "h");
	output_of(command, text, sizeof text);
	assert_string_equal(text, "eins;-;h;");
	command.environment = environment;
	output_of(command, text, sizeof text);
	assert_string_equal(text, "1;zwei;-;");
	command.environment = nothing;
	output_of(command, text, sizeof text);
	assert_string_equal(text, "-;-;-;");
	show[2] = "SystemRoot"; /* which no program can do without */
	output_of(command, text, sizeof text);
	assert_true(text[0] != '-');
	command.arguments = where;
	command.environment = NULL;
	output_of(command, text, sizeof text);
	assert_string_equal(text, home);
	assert_int_equal(do_mkdir("inside"), 0);
	command.directory = "inside";
	output_of(command, text, sizeof text);
	snprintf(expected, sizeof expected, "%s\\inside", home);
	assert_string_equal(text, expected);
}

static void finds_programs(void **state)
{
	static const char *const by_name[] = { "found-in-path", "exit", "5", NULL };
	static const char *const relative[] = { "./found-in-path", "exit", "6", NULL };
	struct proa_command command = { .arguments = by_name };
	struct proa_port *port = make_port();
	char before[4096], path[4096 + MAX_PATH];
	proa_process process;

	(void)state;
	assert_int_equal(do_mkdir("bin"), 0);
	assert_true(CopyFileA(program, "bin\\found-in-path.exe", TRUE));
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	/* Not in the current folder either. */
	SetCurrentDirectoryA("bin");
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	SetCurrentDirectoryA("..");
	assert_true(GetEnvironmentVariableA("PATH", before, sizeof before) < sizeof before);
	snprintf(path, sizeof path, ";;\"%s\\bin\";%s", home, before);
	SetEnvironmentVariableA("PATH", path);
	assert_int_equal(proa_spawn(&command, &process), 0);
	assert_int_equal(wait_child(port, process).code, 5);
	SetEnvironmentVariableA("PATH", before);
	/* A folder in its name counts from where it starts. */
	command.arguments = relative;
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	command.directory = "bin";
	assert_int_equal(proa_spawn(&command, &process), 0);
	assert_int_equal(wait_child(port, process).code, 6);
	assert_int_equal(proa_port_close(port), 0);
}

static void spawn_failures(void **state)
{
	const char *words[] = { "no-such-program-here", NULL, NULL };
	static const char *const none[] = { NULL };
	const proa_handle closed[3] = { 0x7ffffff0, 0x7ffffff0, 0x7ffffff0 };
	const proa_handle no_handles[3] = { PROA_NO_HANDLE, PROA_NO_HANDLE, PROA_NO_HANDLE };
	struct proa_command command = { .arguments = words };
	proa_process process = 77;
	char *longest;
	DWORD before;

	(void)state;
	make_file("plain", "no program");
	make_file("script.bat", "exit 0");
	proa_spawn(&command, &process);
	before = handles_open();
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	words[0] = "./no/such";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	words[0] = "./plain";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOEXEC);
	words[0] = "./script.bat";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOEXEC);
	words[0] = "";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	words[0] = program;
	words[1] = "\xff";
	assert_int_equal(proa_spawn(&command, &process), PROA_EILSEQ);
	longest = calloc(1, 40001);
	assert_non_null(longest);
	words[1] = memset(longest, 'x', 40000);
	assert_int_equal(proa_spawn(&command, &process), PROA_E2BIG);
	free(longest);
	words[1] = NULL;
	command.directory = "no/such";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOENT);
	command.directory = "plain";
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOTDIR);
	command.directory = NULL;
	command.standard = closed;
	assert_int_equal(proa_spawn(&command, &process), PROA_EBADF);
	command.standard = no_handles;
	assert_int_equal(proa_spawn(&command, &process), PROA_EBADF);
	command.standard = NULL;
	command.pass = closed;
	command.pass_count = 1;
	assert_int_equal(proa_spawn(&command, &process), PROA_ENOSYS);
	command.pass_count = 0;
	command.arguments = none;
	assert_int_equal(proa_spawn(&command, &process), PROA_EINVAL);
	command.arguments = NULL;
	assert_int_equal(proa_spawn(&command, &process), PROA_EINVAL);
	assert_int_equal(process, 77);
	assert_int_equal(handles_open(), before);
}

/* Handles that are inheritable for somebody else's sake. */
static void others_stay_behind(void **state)
{
	SECURITY_ATTRIBUTES inherit = { sizeof inherit, NULL, TRUE };
	char number[32], text[16];
	const char *const arguments[] = { program, "handle", number, NULL };
	struct proa_command command = { .arguments = arguments };
	HANDLE file = CreateFileA(
		"file", GENERIC_READ, 7, &inherit, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL, NULL);

	(void)state;
	assert_true(file != INVALID_HANDLE_VALUE);
	sprintf(number, "%llu", (unsigned long long)(uintptr_t)file);
	output_of(command, text, sizeof text);
	assert_string_equal(text, "0");
	CloseHandle(file);
}

static void standard_three(void **state)
{
	const char *const arguments[] = { program, "copy", NULL };
	struct proa_command command = { .arguments = arguments };
	struct proa_port *port = make_port();
	proa_handle ours[3], theirs[3];
	proa_process process;
	struct proa_op op;
	char room[16];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(proa_pipe(port, i > 0, &ours[i], &theirs[i]), 0);
	command.standard = theirs;
	assert_int_equal(proa_spawn(&command, &process), 0);
	for (int i = 0; i < 3; i++)
		must_close((int)theirs[i]);
	proa_op_init(&op, NULL, NULL);
	proa_prep_send(&op, ours[0], "in", 2, 0);
	assert_int_equal(run(&op), 2);
	assert_int_equal(proa_discard(port, ours[0]), 0);
	assert_int_equal(do_recv((int)ours[1], room, 16, PROA_ALL), 2);
	assert_memory_equal(room, "in", 2);
	assert_int_equal(do_recv((int)ours[2], room, 16, PROA_ALL), 1);
	assert_memory_equal(room, "!", 1);
	assert_int_equal(wait_child(port, process).code, 0);
	assert_int_equal(proa_discard(port, ours[1]), 0);
	assert_int_equal(proa_discard(port, ours[2]), 0);
	assert_int_equal(proa_port_close(port), 0);
}

static proa_process start(const char *what, const char *argument)
{
	const char *const arguments[] = { program, what, argument, NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process = 0;
	int code = proa_spawn(&command, &process);

	/* As in tests/windows/process.c: wine makes none, now and then. */
	if (code == PROA_EIO) {
		print_message("AGAIN: no process was made, Win32 error %lu\n", GetLastError());
		code = proa_spawn(&command, &process);
	}
	assert_int_equal(code, 0);
	assert_true(process > 0);
	return process;
}

static void children_end(void **state)
{
	struct proa_port *port = make_port();
	struct proa_exit end;
	proa_process process;
	DWORD before;

	(void)state;
	wait_child(port, start("exit", "0")); /* the pool's thread is there from here on */
	before = handles_open();
	for (int i = 0; i < 10; i++) {
		process = start("exit", i % 2 ? "7" : "300");
		if (i % 3 == 0) /* it has ended when the op is submitted */
			assert_int_equal(
				WaitForSingleObject((HANDLE)process, 20000), WAIT_OBJECT_0);
		end = wait_child(port, process);
		assert_int_equal(end.code, i % 2 ? 7 : 300);
		assert_int_equal(end.signal, 0);
		assert_int_equal(proa_kill(process, 0), PROA_ESRCH); /* reaped */
	}
	process = start("sleep", NULL);
	assert_int_equal(proa_kill(process, 0), 0);
	assert_int_equal(proa_kill(process, 999), PROA_EINVAL);
	assert_int_equal(proa_kill(process, -1), PROA_EINVAL);
	assert_int_equal(proa_kill(process, 9), 0);
	end = wait_child(port, process);
	assert_int_equal(end.signal, 9);
	assert_in_range(handles_open(), 0, before + 1);
	assert_int_equal(proa_kill(0, 9), PROA_EINVAL);
	assert_int_equal(proa_kill(-1, 9), PROA_EINVAL); /* that would be ourselves */
	assert_int_equal(proa_port_close(port), 0);
}

/* The codes with which the system ends a process say why. */
static void crashes_are_signals(void **state)
{
	static const struct {
		const char *code;
		int signal;
	} endings[] = {
		{ "c000013a", 2 }, /* Ctrl-C */
		{ "c000001d", 4 }, /* illegal instruction */
		{ "c0000096", 4 }, /* privileged instruction */
		{ "c000008e", 8 }, /* division by zero, of floats */
		{ "c0000094", 8 }, /* and of integers */
		{ "c0000005", 11 }, /* access violation */
		{ "c00000fd", 11 }, /* stack overflow */
		{ "c0000006", 11 }, /* a page that could not be read */
		{ "c0000409", 22 }, /* stack overrun, abort() */
		{ "c0000001", 0 },
	};
	struct proa_port *port = make_port();
	struct proa_exit end;

	(void)state;
	for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
		end = wait_child(port, start("crash", endings[i].code));
		assert_int_equal(end.signal, endings[i].signal);
		assert_int_equal(end.code, strtoul(endings[i].code, NULL, 16));
	}
	assert_int_equal(proa_port_close(port), 0);
}

static int32_t wait_one(struct proa_port *port, const struct proa_op *op)
{
	struct proa_completion c;

	assert_int_equal(proa_wait(port, &c, 1, 20 * PROA_SECOND), 1);
	assert_ptr_equal(c.op, op);
	assert_int_equal(c.flags & PROA_MORE, 0);
	return c.result;
}

/* A wait that is cancelled leaves the child; two waits reap once. */
static void child_cancelled(void **state)
{
	struct proa_port *port = make_port();
	proa_process process = start("sleep", NULL);
	struct proa_completion both[2];
	struct proa_op op, again;
	struct proa_exit end;
	int got = 0;

	(void)state;
	proa_op_init(&op, port, NULL);
	proa_op_init(&again, port, NULL);
	for (int i = 0; i < 3; i++) {
		proa_prep_child(&op, process, &end);
		if (i == 1)
			proa_op_timeout(&op, 10 * PROA_MILLISECOND);
		proa_submit(&op, NULL);
		if (i != 1)
			proa_cancel(&op);
		assert_int_equal(wait_one(port, &op), i == 1 ? PROA_ETIMEDOUT : PROA_ECANCELED);
	}
	proa_prep_child(&op, process, &end);
	proa_submit(&op, NULL);
	proa_prep_child(&again, process, &end);
	proa_submit(&again, NULL);
	assert_int_equal(proa_kill(process, 15), 0);
	while (got < 2)
		got += proa_wait(port, both + got, 2 - got, 20 * PROA_SECOND);
	assert_true(both[0].result + both[1].result == PROA_ECHILD);
	assert_int_equal(end.signal, 15);
	for (intptr_t stranger = -1; stranger <= 1; stranger++) {
		proa_prep_child(&op, stranger, &end);
		proa_submit(&op, NULL);
		assert_int_equal(wait_one(port, &op), PROA_ECHILD);
	}
	/* A handle, but no process. */
	proa_prep_child(&op, (intptr_t)GetStdHandle(STD_OUTPUT_HANDLE), &end);
	proa_submit(&op, NULL);
	assert_int_equal(wait_one(port, &op), PROA_ECHILD);
	/* The port ends, the child does not. */
	process = start("sleep", NULL);
	proa_prep_child(&op, process, &end);
	proa_submit(&op, NULL);
	assert_int_equal(proa_port_close(port), 0);
	assert_int_equal(proa_kill(process, 0), 0);
	assert_int_equal(proa_kill(process, 9), 0);
	CloseHandle((HANDLE)process);
}

static void children_race_with_cancels(void **state)
{
	enum { COUNT = 24 };
	struct proa_port *port = make_port();
	proa_process processes[COUNT];
	struct proa_op ops[COUNT];
	struct proa_exit ends[COUNT];
	int told = 0, cancelled = 0;

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		processes[i] = start("exit", "3");
		proa_op_init(&ops[i], port, NULL);
		proa_prep_child(&ops[i], processes[i], &ends[i]);
		proa_submit(&ops[i], NULL);
	}
	Sleep(50);
	for (int i = 0; i < COUNT; i += 2)
		proa_cancel(&ops[i]);
	for (int i = 0; i < COUNT; i++) {
		struct proa_completion c;
		ptrdiff_t which;

		assert_int_equal(proa_wait(port, &c, 1, 20 * PROA_SECOND), 1);
		which = c.op - ops;
		if (c.result == 0) {
			assert_int_equal(ends[which].code, 3);
			told++;
		} else {
			assert_int_equal(c.result, PROA_ECANCELED);
			CloseHandle((HANDLE)processes[which]);
			cancelled++;
		}
	}
	assert_int_equal(told + cancelled, COUNT);
	assert_true(told >= COUNT / 2);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- console events -------------------------------------------------------------------------- */

static THREAD_RETURN event_main(void *event)
{
	/* The system's own way where there is a console; wine without a terminal has none. */
	if (!GenerateConsoleCtrlEvent((DWORD)(uintptr_t)event, 0))
		windows_console_event((DWORD)(uintptr_t)event);
	return THREAD_DONE;
}

static void event_happens(DWORD event)
{
	thread_id thread;

	assert_int_equal(thread_start(&thread, event_main, (void *)(uintptr_t)event), 0);
	thread_join(thread);
}

static void expect_signal(struct proa_port *port, const struct proa_op *op, int number)
{
	struct proa_completion c;

	assert_int_equal(proa_wait(port, &c, 1, 20 * PROA_SECOND), 1);
	assert_ptr_equal(c.op, op);
	assert_int_equal(c.result, number);
	assert_int_equal(c.flags, PROA_MORE);
}

static void signals(void **state)
{
	static const int numbers[] = { 0, -1, 3, 9, 11, 19, 22, 64, 65, INT32_MAX };
	struct proa_port *ports[2] = { make_port(), make_port() };
	struct proa_op interrupt[2], other;

	(void)state;
	proa_op_init(&other, ports[0], NULL);
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		proa_prep_signal(&other, numbers[i]);
		proa_submit(&other, NULL);
		assert_int_equal(wait_one(ports[0], &other), PROA_EINVAL);
	}
	assert_false(windows_console_event(CTRL_BREAK_EVENT)); /* nobody listens */
	for (int i = 0; i < 2; i++) {
		proa_op_init(&interrupt[i], ports[i], NULL);
		proa_prep_signal(&interrupt[i], SIGINT);
		proa_submit(&interrupt[i], NULL);
	}
	proa_prep_signal(&other, 21); /* SIGBREAK */
	proa_submit(&other, NULL);
	for (int round = 0; round < 3; round++) {
		event_happens(CTRL_C_EVENT);
		expect_signal(ports[1], &interrupt[1], SIGINT);
		expect_signal(ports[0], &interrupt[0], SIGINT);
		event_happens(CTRL_BREAK_EVENT);
		expect_signal(ports[0], &other, 21);
	}
	/* What came is told before the end. */
	event_happens(CTRL_BREAK_EVENT);
	Sleep(100);
	proa_cancel(&other);
	expect_signal(ports[0], &other, 21);
	assert_int_equal(wait_one(ports[0], &other), PROA_ECANCELED);
	assert_false(windows_console_event(CTRL_BREAK_EVENT));
	/* A port's end leaves the other's. */
	assert_int_equal(proa_port_close(ports[0]), 0);
	event_happens(CTRL_C_EVENT);
	expect_signal(ports[1], &interrupt[1], SIGINT);
	assert_int_equal(proa_port_close(ports[1]), 0);
	assert_false(windows_console_event(CTRL_C_EVENT));
}

static THREAD_RETURN close_main(void *unused)
{
	(void)unused;
	windows_console_event(CTRL_CLOSE_EVENT);
	return THREAD_DONE;
}

/* In a process of its own: the handler does not return, so that there is time to end. */
static int play_closed(void)
{
	struct proa_port *port = make_port();
	struct proa_completion c;
	struct proa_op terminate;
	thread_id thread;

	proa_op_init(&terminate, port, NULL);
	proa_prep_signal(&terminate, SIGTERM);
	proa_submit(&terminate, NULL);
	if (thread_start(&thread, close_main, NULL) < 0)
		return 1;
	if (proa_wait(port, &c, 1, 20 * PROA_SECOND) != 1 || c.result != SIGTERM)
		return 2;
	if (WaitForSingleObject(thread, 100) != WAIT_TIMEOUT)
		return 3;
	proa_port_close(port);
	return 42;
}

static void console_closes(void **state)
{
	struct proa_port *port = make_port();

	(void)state;
	assert_int_equal(wait_child(port, start("closed", NULL)).code, 42);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- waits that fail ------------------------------------------------------------------ */

/* The linker leads these through here (--wrap). DLLs' functions are called by pointers,
 * but where the headers don't say that they are such. */
int WSAAPI __real_WSAPoll(WSAPOLLFD *entries, ULONG count, int ms);
int WSAAPI __wrap_WSAPoll(WSAPOLLFD *entries, ULONG count, int ms);
extern int(WSAAPI *__real___imp_select)(
	int ignored, fd_set *in, fd_set *out, fd_set *except, const struct timeval *limit);

extern DWORD(WINAPI *__real___imp_GetFullPathNameW)(
	const WCHAR *path, DWORD room, WCHAR *out, WCHAR **name);
extern BOOL(WINAPI *__real___imp_RegisterWaitForSingleObject)(
	HANDLE *out, HANDLE object, WAITORTIMERCALLBACK told, void *context, ULONG ms, ULONG flags);
extern FARPROC(WINAPI *__real___imp_GetProcAddress)(HMODULE module, LPCSTR name);

static bool waits_failing;
static int waits;
static bool hides_connects; /* WSAPoll() tells of none that failed */
static DWORD build; /* that the system says it is; 0: its own */

static LONG WINAPI say_build(OSVERSIONINFOW *version)
{
	version->dwBuildNumber = build;
	return 0;
}

static FARPROC WINAPI maybe_address(HMODULE module, LPCSTR name)
{
	if (build != 0 && (uintptr_t)name > 0xffff && strcmp(name, "RtlGetVersion") == 0)
		return (FARPROC)(void (*)(void))say_build;
	return __real___imp_GetProcAddress(module, name);
}

FARPROC(WINAPI *__wrap___imp_GetProcAddress)(HMODULE module, LPCSTR name) = maybe_address;

static bool is_refused(void)
{
	waits++;
	if (waits_failing)
		WSASetLastError(WSAENOBUFS);
	return waits_failing;
}

int WSAAPI __wrap_WSAPoll(WSAPOLLFD *entries, ULONG count, int ms)
{
	int found;

	if (is_refused())
		return SOCKET_ERROR;
	found = __real_WSAPoll(entries, count, ms);
	for (ULONG i = 0; hides_connects && i < count; i++) {
		if ((entries[i].revents & POLLERR) == 0)
			continue;
		entries[i].revents = 0;
		if (--found == 0 && ms != 0)
			Sleep(ms < 0 || ms > 20 ? 20 : (DWORD)ms); /* as if it waited on */
	}
	return found;
}

static int WSAAPI maybe_select(
	int ignored, fd_set *in, fd_set *out, fd_set *except, const struct timeval *limit)
{
	return is_refused() ? SOCKET_ERROR : __real___imp_select(ignored, in, out, except, limit);
}

int(WSAAPI *__wrap___imp_select)(int ignored, fd_set *in, fd_set *out, fd_set *except,
	const struct timeval *limit) = maybe_select;

/* The call of this number (from 1) fails, or (negative) has too little room. */
static int paths_failing, paths;

static DWORD WINAPI maybe_path(const WCHAR *path, DWORD room, WCHAR *out, WCHAR **name)
{
	paths++;
	if (paths == paths_failing) {
		SetLastError(ERROR_NOT_ENOUGH_MEMORY);
		return 0;
	}
	if (paths == -paths_failing)
		return room + 1;
	return __real___imp_GetFullPathNameW(path, room, out, name);
}

static bool watches_failing;

static BOOL WINAPI maybe_watch(
	HANDLE *out, HANDLE object, WAITORTIMERCALLBACK told, void *context, ULONG ms, ULONG flags)
{
	if (!watches_failing)
		return __real___imp_RegisterWaitForSingleObject(
			out, object, told, context, ms, flags);
	SetLastError(ERROR_NO_SYSTEM_RESOURCES);
	return FALSE;
}

DWORD(WINAPI *__wrap___imp_GetFullPathNameW)
(const WCHAR *path, DWORD room, WCHAR *out, WCHAR **name) = maybe_path;
BOOL(WINAPI *__wrap___imp_RegisterWaitForSingleObject)
(HANDLE *out, HANDLE object, WAITORTIMERCALLBACK told, void *context, ULONG ms,
	ULONG flags) = maybe_watch;

static void note_result(struct proa_op *op, const struct proa_completion *c)
{
	*(int32_t *)op->data = c->result;
}

/* What waits is told, not at the first time, and nothing spins; then it goes on. */
static void fail_waits_of(const char *engine)
{
	struct proa_port_options options = { .engine = engine };
	struct proa_port *port;
	proa_handle pair[2];
	int32_t result = 1;
	struct proa_op receive, send;
	ULONGLONG since;
	char byte;

	assert_int_equal(proa_port_open(&options, &port), 0);
	assert_int_equal(proa_pair(port, pair), 0);
	proa_op_init(&receive, port, &result);
	proa_op_init(&send, port, NULL);
	proa_prep_recv(&receive, pair[0], &byte, 1, 0);
	proa_submit(&receive, note_result);
	assert_true(proa_run_once(port, 0) >= 0);
	waits_failing = true;
	waits = 0;
	since = GetTickCount64();
	while (proa_op_pending(&receive) && GetTickCount64() - since < 10000)
		assert_true(proa_run_once(port, 50 * PROA_MILLISECOND) >= 0);
	waits_failing = false;
	assert_int_equal(result, PROA_ENOMEM);
	assert_true(GetTickCount64() - since > 500);
	assert_in_range(waits, 2, 1000);
	proa_prep_recv(&receive, pair[0], &byte, 1, 0);
	proa_submit(&receive, note_result);
	assert_true(proa_run_once(port, 0) >= 0);
	assert_true(proa_op_pending(&receive));
	proa_prep_send(&send, pair[1], "x", 1, 0);
	proa_submit(&send, NULL);
	assert_int_equal(proa_run(port), 0);
	assert_int_equal(result, 1);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
}

static void waits_that_fail_are_told(void **state)
{
	(void)state;
	fail_waits_of("poll");
	fail_waits_of("select");
}

/* Paths of more than 247 characters are made absolute first: by two calls, between which
 * another thread may have gone to another folder. */
static void long_paths_that_fail(void **state)
{
	char path[400] = "";
	struct proa_stat facts;

	(void)state;
	while (strlen(path) < 300)
		strcat(path, "./");
	strcat(path, "nothing");
	assert_int_equal(do_stat(path, &facts), PROA_ENOENT);
	for (int call = 1; call <= 2; call++) {
		paths = 0;
		paths_failing = call;
		assert_int_equal(do_stat(path, &facts), PROA_ENOMEM);
		assert_int_equal(paths, call);
	}
	make_file("file", "text");
	strcpy(strrchr(path, '/'), "/file");
	paths = 0;
	paths_failing = -2;
	assert_int_equal(do_stat(path, &facts), PROA_ENOENT);
	assert_int_equal(paths, 2);
	paths_failing = 0;
	assert_int_equal(do_stat(path, &facts), 0);
}

/* A child that can't be watched is there, and can be watched when the want has passed. */
static void watches_that_fail(void **state)
{
	struct proa_port *port = make_port();
	proa_process process = start("exit", "7");
	struct proa_exit end;
	struct proa_op op;

	(void)state;
	proa_op_init(&op, port, NULL);
	watches_failing = true;
	proa_prep_child(&op, process, &end);
	proa_submit(&op, NULL);
	assert_int_equal(wait_one(port, &op), PROA_ENOMEM);
	watches_failing = false;
	assert_int_equal(wait_child(port, process).code, 7);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- engines ----------------------------------------------------------------------------------- */

static const char *const engines[] = { "iocp", "poll", "select" };

#define FOR_ENGINES(engine) \
	for (const char *const *engine = engines; engine < engines + 3; engine++)

static struct proa_port *engine_port(const char *engine)
{
	const struct proa_port_options options = { .engine = engine };
	struct proa_port *port;

	assert_int_equal(proa_port_open(&options, &port), 0);
	return port;
}

/* An address of this machine where nobody listens. */
static struct proa_address nobodys_address(struct proa_port *port)
{
	struct proa_address address;
	proa_handle listener;

	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	assert_int_equal(proa_local_address(listener, &address), 0);
	proa_discard(port, listener);
	return address;
}

/* A dial to nobody, on the system of a build whose WSAPoll() hides what has failed: its result, or 0
 * if it has none for a while. */
static int32_t dial_nobody(DWORD on_build)
{
	struct proa_port *port;
	struct proa_address address;
	struct proa_completion c;
	struct proa_op dial;
	int32_t result = 0;

	build = on_build;
	port = engine_port("poll");
	build = 0;
	address = nobodys_address(port);
	proa_op_init(&dial, port, NULL);
	proa_prep_dial(&dial, &address, 0);
	hides_connects = true;
	proa_submit(&dial, NULL);
	if (proa_wait(port, &c, 1, on_build < 19041 ? 20 * PROA_SECOND : 300 * PROA_MILLISECOND) ==
		1)
		result = c.result;
	hides_connects = false;
	proa_cancel_all(port);
	while (proa_op_pending(&dial))
		assert_true(proa_wait(port, &c, 1, PROA_SECOND) >= 0);
	assert_int_equal(proa_port_close(port), 0);
	return result;
}

/* WSAPoll() of before Windows 10 2004 does not tell of a connect that failed. */
static void hidden_failures_of_connects(void **state)
{
	(void)state;
	assert_int_equal(dial_nobody(18363), PROA_ECONNREFUSED);
	assert_int_equal(dial_nobody(7601), PROA_ECONNREFUSED);
	assert_int_equal(dial_nobody(19041), 0); /* which does tell: it is relied on */
}

/* There is none that every way of waiting knows. */
static void ports_have_no_descriptor(void **state)
{
	(void)state;
	FOR_ENGINES(engine)
	{
		struct proa_port *port = engine_port(*engine);

		assert_true(proa_port_descriptor(port) == PROA_NO_HANDLE);
		assert_int_equal(proa_port_close(port), 0);
	}
}

static int32_t poll_once(struct proa_port *port, HANDLE handle, uint32_t events)
{
	struct proa_op op;

	proa_op_init(&op, port, NULL);
	proa_prep_poll(&op, (proa_handle)handle, events);
	proa_submit(&op, NULL);
	return wait_one(port, &op);
}

/* Of pipes no driver tells; what is closed is no handle. */
static void polls_of_what_is_no_socket(void **state)
{
	struct proa_port *port = engine_port("iocp");
	HANDLE ends[2];

	(void)state;
	assert_true(CreatePipe(&ends[0], &ends[1], NULL, 0));
	assert_int_equal(poll_once(port, ends[0], PROA_READABLE), PROA_EOPNOTSUPP);
	CloseHandle(ends[0]);
	CloseHandle(ends[1]);
	assert_int_equal(poll_once(port, ends[0], PROA_READABLE), PROA_EBADF);
	assert_int_equal(proa_port_close(port), 0);
}

/* Connects to what is no address of the internet are Winsock's to refuse. */
static void other_families(void **state)
{
	(void)state;
	FOR_ENGINES(engine)
	{
		struct proa_port *port = engine_port(*engine);
		struct proa_address to = { .length = 16 };
		struct proa_op op;
		proa_handle ends[2];

		to.to.any.sa_family = AF_UNIX;
		assert_int_equal(proa_pair(port, ends), 0);
		proa_op_init(&op, port, NULL);
		proa_prep_connect(&op, ends[0], &to, 0);
		proa_submit(&op, NULL);
		assert_true(wait_one(port, &op) < 0);
		to.to.any.sa_family = AF_INET6; /* cut off */
		proa_prep_connect(&op, ends[1], &to, 0);
		proa_submit(&op, NULL);
		assert_int_equal(wait_one(port, &op), PROA_EINVAL);
		proa_discard(port, ends[0]);
		proa_discard(port, ends[1]);
		assert_int_equal(proa_port_close(port), 0);
	}
}

/* select() fails then, for all sockets that it waits for. */
static void socket_closed_elsewhere(void **state)
{
	struct proa_port *port = engine_port("select");
	proa_handle gone[2], ends[2];
	struct proa_op lost, op;
	char bytes[2];
	int32_t result;

	(void)state;
	assert_int_equal(proa_pair(port, gone), 0);
	assert_int_equal(proa_pair(port, ends), 0);
	proa_op_init(&lost, port, NULL);
	proa_prep_recv(&lost, gone[0], bytes, 1, 0);
	proa_submit(&lost, NULL);
	proa_op_init(&op, port, NULL);
	proa_prep_recv(&op, ends[0], bytes + 1, 1, 0);
	proa_submit(&op, NULL);
	assert_int_equal(proa_run_once(port, 0), 0);
	closesocket((SOCKET)gone[0]);
	result = wait_one(port, &lost);
	assert_true(result == PROA_EBADF || result == PROA_ENOTSOCK);
	assert_int_equal(send((SOCKET)ends[1], "x", 1, 0), 1);
	assert_int_equal(wait_one(port, &op), 1);
	for (int i = 0; i < 2; i++)
		proa_discard(port, ends[i]);
	proa_discard(port, gone[1]);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- consoles ------------------------------------------------------------------------------- */

#ifndef PROC_THREAD_ATTRIBUTE_PSEUDOCONSOLE
#	define PROC_THREAD_ATTRIBUTE_PSEUDOCONSOLE 0x00020016
#endif

#define NO_CONSOLE 99 /* a child's exit code; others than 0 are the line that failed */

#define EXPECT(condition)                \
	do {                             \
		if (!(condition))        \
			return __LINE__; \
	} while (0)

/* As typed: a letter, and the end of the line. */
static bool type_letter(HANDLE in, char letter)
{
	INPUT_RECORD keys[4];
	DWORD written;

	memset(keys, 0, sizeof keys);
	for (int i = 0; i < 4; i++) {
		KEY_EVENT_RECORD *key = &keys[i].Event.KeyEvent;

		keys[i].EventType = KEY_EVENT;
		key->bKeyDown = i % 2 == 0;
		key->wRepeatCount = 1;
		key->uChar.UnicodeChar = i < 2 ? (WCHAR)letter : L'\r';
		key->wVirtualKeyCode = i < 2 ? (WORD)(letter - 'a' + 'A') : VK_RETURN;
	}
	return WriteConsoleInputW(in, keys, 4, &written) && written == 4;
}

/* True: a worker has it. */
static bool goes_to_worker(struct proa_op *op)
{
	proa_submit(op, NULL);
	return op->state_ == OP_WORKER;
}

static int write_to_console(struct proa_port *port, HANDLE out)
{
	CONSOLE_SCREEN_BUFFER_INFO screen;
	struct proa_op op;
	char text[8];
	DWORD n = 0;

	proa_op_init(&op, port, NULL);
	EXPECT(GetConsoleScreenBufferInfo(out, &screen));
	proa_prep_send(&op, (proa_handle)out, "hello", 5, 0);
	EXPECT(goes_to_worker(&op));
	EXPECT(wait_one(port, &op) == 5);
	EXPECT(ReadConsoleOutputCharacterA(out, text, 5, screen.dwCursorPosition, &n) && n == 5);
	EXPECT(memcmp(text, "hello", 5) == 0);
	/* There are no places in it. */
	proa_prep_write(&op, (proa_handle)out, "x", 1, 0);
	proa_submit(&op, NULL);
	EXPECT(wait_one(port, &op) == PROA_ESPIPE);
	EXPECT(do_write((int)(proa_handle)out, "x", 0) == PROA_ESPIPE);
	return 0;
}

static int read_from_console(struct proa_port *port, HANDLE in)
{
	struct proa_pool *pool;
	struct proa_op op;
	char text[8];

	proa_op_init(&op, port, NULL);
	proa_prep_recv(&op, (proa_handle)in, text, sizeof text, 0);
	EXPECT(goes_to_worker(&op));
	EXPECT(proa_run_once(port, 20 * PROA_MILLISECOND) == 0 && proa_op_pending(&op));
	EXPECT(type_letter(in, 'a'));
	EXPECT(wait_one(port, &op) == 3);
	EXPECT(memcmp(text, "a\r\n", 3) == 0);
	/* Nothing tells of a console's bytes without reading them. */
	EXPECT(proa_pool_open(port, NULL, &pool) == 0);
	proa_prep_recv_lent(&op, (proa_handle)in, pool, 0);
	proa_submit(&op, NULL);
	EXPECT(wait_one(port, &op) == PROA_EOPNOTSUPP);
	proa_pool_close(pool);
	return 0;
}

/* Nobody types. */
static int cancel_read(struct proa_port *port, HANDLE in)
{
	struct proa_op op;
	char byte;

	proa_op_init(&op, port, NULL);
	proa_prep_recv(&op, (proa_handle)in, &byte, 1, 0);
	EXPECT(goes_to_worker(&op));
	EXPECT(proa_run_once(port, 20 * PROA_MILLISECOND) == 0 && proa_op_pending(&op));
	proa_cancel(&op);
	EXPECT(wait_one(port, &op) == PROA_ECANCELED);
	return 0;
}

/* In a process that has a console. */
static int play_console(void)
{
	HANDLE in = CreateFileW(
		L"CONIN$", GENERIC_READ | GENERIC_WRITE, 3, NULL, OPEN_EXISTING, 0, NULL);
	HANDLE out = CreateFileW(
		L"CONOUT$", GENERIC_READ | GENERIC_WRITE, 3, NULL, OPEN_EXISTING, 0, NULL);
	DWORD mode;
	int line;

	if (!GetConsoleMode(in, &mode) || !GetConsoleMode(out, &mode))
		return NO_CONSOLE;
	FOR_ENGINES(engine)
	{
		struct proa_port *port = engine_port(*engine);

		EXPECT(poll_once(port, in, PROA_READABLE) == PROA_EOPNOTSUPP);
		EXPECT(poll_once(port, out, PROA_WRITABLE) == PROA_EOPNOTSUPP);
		line = write_to_console(port, out);
		if (line == 0)
			line = read_from_console(port, in);
		/* Wine's console still reads for who has cancelled: so once, at the end. */
		if (line == 0 && engine == &engines[2])
			line = cancel_read(port, in);
		if (line != 0)
			return line;
		EXPECT(proa_port_close(port) == 0);
	}
	return 0;
}

typedef HRESULT(WINAPI *create_console)(
	COORD size, HANDLE in, HANDLE out, DWORD flags, void **console);
typedef void(WINAPI *close_console)(void *console);

static FARPROC of_kernel(const char *name)
{
	return GetProcAddress(GetModuleHandleW(L"kernel32.dll"), name);
}

/* Starts ourselves on a console that is no window: the exit code. */
static DWORD run_on_console(void *console)
{
	STARTUPINFOEXW start_up;
	PROCESS_INFORMATION child;
	WCHAR path[MAX_PATH], line[MAX_PATH + 16];
	DWORD code = 0;
	SIZE_T size = 0;

	memset(&start_up, 0, sizeof start_up);
	start_up.StartupInfo.cb = sizeof start_up;
	InitializeProcThreadAttributeList(NULL, 1, 0, &size);
	start_up.lpAttributeList = malloc(size);
	assert_non_null(start_up.lpAttributeList);
	assert_true(InitializeProcThreadAttributeList(start_up.lpAttributeList, 1, 0, &size));
	assert_true(UpdateProcThreadAttribute(start_up.lpAttributeList, 0,
		PROC_THREAD_ATTRIBUTE_PSEUDOCONSOLE, console, sizeof console, NULL, NULL));
	GetModuleFileNameW(NULL, path, MAX_PATH);
	swprintf(line, MAX_PATH + 16, L"\"%ls\" console", path);
	assert_true(CreateProcessW(path, line, NULL, NULL, FALSE, EXTENDED_STARTUPINFO_PRESENT,
		NULL, NULL, &start_up.StartupInfo, &child));
	assert_int_equal(WaitForSingleObject(child.hProcess, 30000), WAIT_OBJECT_0);
	GetExitCodeProcess(child.hProcess, &code);
	DeleteProcThreadAttributeList(start_up.lpAttributeList);
	free(start_up.lpAttributeList);
	CloseHandle(child.hProcess);
	CloseHandle(child.hThread);
	return code;
}

static void consoles(void **state)
{
	create_console create = (create_console)(void (*)(void))of_kernel("CreatePseudoConsole");
	close_console done = (close_console)(void (*)(void))of_kernel("ClosePseudoConsole");
	HANDLE keys[2], screen[2];
	void *console = NULL;
	DWORD code = NO_CONSOLE;

	(void)state;
	assert_true(CreatePipe(&keys[0], &keys[1], NULL, 0));
	assert_true(CreatePipe(&screen[0], &screen[1], NULL, 0));
	if (create != NULL && create((COORD) { 80, 25 }, keys[0], screen[1], 0, &console) >= 0)
		code = run_on_console(console);
	CloseHandle(keys[1]);
	CloseHandle(screen[0]);
	if (console != NULL)
		done(console);
	CloseHandle(keys[0]);
	CloseHandle(screen[1]);
	if (code == NO_CONSOLE) {
		print_message("not shown: there is no console to be had here\n");
		skip();
	}
	if (code != 0)
		print_error("the child: not so in line %lu\n", code);
	assert_int_equal(code, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, clean, clean)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(opens),
		TEST(opens_folders),
		TEST(created_for_reading_alone),
		TEST(reads_and_writes),
		TEST(vectors),
		TEST(appends),
		TEST(nobody_is_kept_out),
		TEST(streams),
		TEST(plain_handles),
		TEST(sends_file),
		TEST(stats),
		TEST(truncates_and_syncs),
		TEST(renames),
		TEST(odd_names),
		TEST(keeps_packets_off_ports),
		TEST(device),
		TEST(pipes),
		TEST(interrupts),
		TEST(passes_arguments),
		TEST(sets_environment_and_directory),
		TEST(finds_programs),
		TEST(spawn_failures),
		TEST(others_stay_behind),
		TEST(standard_three),
		TEST(children_end),
		TEST(crashes_are_signals),
		TEST(child_cancelled),
		TEST(children_race_with_cancels),
		TEST(signals),
		TEST(console_closes),
		TEST(waits_that_fail_are_told),
		TEST(long_paths_that_fail),
		TEST(watches_that_fail),
		TEST(hidden_failures_of_connects),
		TEST(ports_have_no_descriptor),
		TEST(polls_of_what_is_no_socket),
		TEST(other_families),
		TEST(socket_closed_elsewhere),
		TEST(consoles),
	};
	char folder[MAX_PATH];
	int failed;

	if (argc > 1 && strcmp(argv[1], "closed") == 0)
		return play_closed();
	if (argc > 1 && strcmp(argv[1], "console") == 0)
		return play_console();
	if (argc > 1)
		return play_child(argc, argv);
	GetModuleFileNameA(NULL, program, sizeof program);
	GetTempPathA(sizeof folder, folder);
	snprintf(home, sizeof home, "%sproa-unit-%lu", folder, GetCurrentProcessId());
	if (!CreateDirectoryA(home, NULL) && GetLastError() != ERROR_ALREADY_EXISTS) {
		fprintf(stderr, "no folder %s\n", home);
		return 1;
	}
	failed = cmocka_run_group_tests_name("windows", tests, NULL, NULL);
	SetCurrentDirectoryA(folder);
	RemoveDirectoryA(home);
	return failed;
}
