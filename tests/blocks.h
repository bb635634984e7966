/* Blocks of memory that the library and the tests have asked for and not given back:
 * the linker leads their malloc() and its like through blocks.c (--wrap). Not so under
 * sanitizers, which look for leaks themselves, and where the linker can't: there
 * nothing is counted. */
#ifndef PROA_TESTS_BLOCKS_H
#define PROA_TESTS_BLOCKS_H

#ifdef COUNTS_BLOCKS
/* From here on they are counted: what is there already stays as long as it likes. */
void blocks_note(void);
/* How many have been made since, and are there still. (On Windows those that a variable
 * names are let off.) */
int blocks_new(void);
/* How many times memory was asked for. */
unsigned long blocks_asked(void);
/* Writes them to stderr: size, and who asked, as an offset in the image for addr2line. */
void blocks_show(void);
#else
static inline void blocks_note(void)
{
}

static inline int blocks_new(void)
{
	return 0;
}

static inline unsigned long blocks_asked(void)
{
	return 0;
}

static inline void blocks_show(void)
{
}
#endif

#endif
