/* Blocks of memory that the library and the tests have asked for and not given back.
 * On Linux LeakSanitizer looks for these; here the linker leads malloc() and its like
 * through blocks.c (--wrap). */
#ifndef PROA_TESTS_WINDOWS_BLOCKS_H
#define PROA_TESTS_WINDOWS_BLOCKS_H

/* From here on they are counted: what is there already stays as long as it likes. */
void blocks_note(void);
/* How many have been made since, are there still, and are not named by a variable. */
int blocks_new(void);
/* How many times memory was asked for. */
unsigned long blocks_asked(void);
/* Writes them to stderr: size, and who asked, as an offset in the image for addr2line. */
void blocks_show(void);

#endif
