/* The console's events, for tests that have no console. */
#ifndef PROA_ENGINES_WINDOWS_SIGNAL_H
#define PROA_ENGINES_WINDOWS_SIGNAL_H

#include <winsock2.h>
#include <windows.h>

/* What the system calls, on a thread of its own, for CTRL_C_EVENT and its like: TRUE
 * if some op was told. It does not return from an event after which the process ends,
 * if one was. */
BOOL WINAPI windows_console_event(DWORD event);

#endif
