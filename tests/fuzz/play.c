/* Plays inputs of the fuzzer without it: files, all files of folders, or one in hex. */
#include "posix.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random/random.h"

static const char *engine;
static int passed, failed;

static void play_file(const char *path)
{
	unsigned char bytes[4096];
	FILE *file = fopen(path, "rb");
	size_t length;

	if (file == NULL) {
		perror(path);
		failed++;
		return;
	}
	length = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	fprintf(stderr, "%s\n", path);
	fuzz_one(bytes, length, engine);
	passed++;
}

static void play(const char *path)
{
	char inner[1024];
	struct stat about;
	struct dirent *entry;
	DIR *folder;

	if (stat(path, &about) < 0 || !S_ISDIR(about.st_mode)) {
		play_file(path);
		return;
	}
	folder = opendir(path);
	while (folder != NULL && (entry = readdir(folder)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
		play_file(inner);
	}
	if (folder != NULL)
		closedir(folder);
}

static void play_hex(const char *text)
{
	unsigned char bytes[4096];
	size_t length = 0;
	unsigned byte;

	for (; length < sizeof(bytes) && sscanf(text, "%2x", &byte) == 1; text += 2) {
		bytes[length++] = (unsigned char)byte;
		if (text[1] == '\0')
			break;
	}
	fuzz_one(bytes, length, engine);
	passed++;
}

int main(int argc, char **argv)
{
	int i = 1;

	fuzz_program = argv[0] + strlen(argv[0]);
	while (fuzz_program != argv[0] && strchr("/\\", fuzz_program[-1]) == NULL)
		fuzz_program--;
#ifdef _WIN32
	exceptions_tell();
#endif
	if (i < argc && strcmp(argv[i], "-v") == 0) {
		fuzz_verbose = true;
		i++;
	}
	if (i + 1 < argc && strcmp(argv[i], "--engine") == 0) {
		engine = argv[i + 1];
		i += 2;
	}
	if (i == argc) {
		fprintf(stderr,
			"usage: %s [-v] [--engine NAME] FILE... | FOLDER... | --hex BYTES\n",
			argv[0]);
		return 2;
	}
	if (i + 1 < argc && strcmp(argv[i], "--hex") == 0)
		play_hex(argv[i + 1]);
	else
		for (; i < argc; i++)
			play(argv[i]);
	printf("%d passed, %d failed, 0 skipped\n", passed, failed);
	return failed > 0;
}
