#!/bin/sh
# As redirect.sh, of Windows: functions of DLLs are called by pointers, so that
# __imp_WSARecv becomes __imp_faulty_WSARecv, which is made here, and WSARecv (a thunk)
# becomes faulty_WSARecv.
#
# usage: redirect_windows.sh TOOLS OUT POINTERS LIBRARY WRAPPERS
# TOOLS is what binutils' names begin with: x86_64-w64-mingw32-
set -eu
tools=$1 out=$2 pointers=$3 library=$4 wrappers=$5
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${tools}nm" "$wrappers" | sed -n 's/^[0-9a-f]* T faulty_\([A-Za-z0-9_]*\)$/\1/p' |
	LC_ALL=C sort -u >"$scratch/faulty"
sed 's/.*/& faulty_&\n__imp_& __imp_faulty_&/' "$scratch/faulty" >"$scratch/names"
"${tools}ld" -r --whole-archive "$library" -o "$scratch/all.o"
"${tools}objcopy" --redefine-syms="$scratch/names" "$scratch/all.o" "$out"
{
	echo '.data'
	sed 's/.*/.globl __imp_faulty_&\n__imp_faulty_&: .quad faulty_&/' "$scratch/faulty"
} | "${tools}as" -o "$pointers" -

# Those that can't fail, or whose failing is of no interest: pure functions, locks, clocks
# and waits without an end; what frees and closes (a handle is gone with its close, whatever
# it says); what tells how something went, or what it is; SetHandleInformation(), whose
# answer nobody looks at; the environment.
harmless='__gcov_.* _?_?assert _errno _snwprintf _wcsnicmp __acrt_iob_func __mingw_v.*printf
	__emutls_get_address ___chkstk_ms __WSAFDIsSet abort qsort getenv
	mem(cmp|cpy|move|set) str(chr|cmp|len|ncmp|nlen|rchr|toul) wcs(chr|cspn|len)
	(Acquire|Release)SRWLockExclusive InitializeSRWLock InitializeConditionVariable
	SleepConditionVariableSRW Wake(All)?ConditionVariable InitOnce(BeginInitialize|Complete)
	Sleep WaitForSingleObject GetTickCount64 QueryPerformance(Counter|Frequency)
	closesocket UnregisterWaitEx DeleteProcThreadAttributeList
	GetLastError SetLastError WSAGetLastError RtlNtStatusToDosError
	GetCurrent(Process|ProcessId|ThreadId) GetProcessId GetExitCodeProcess GetStdHandle
	GetConsoleMode GetFileType GetHandleInformation SetHandleInformation GetModuleHandleW GetProcAddress
	GetEnvironmentVariableW GetWindowsDirectoryW CompareStringOrdinal MultiByteToWideChar
	hton[ls] ntohs inet_(ntop|pton) if_nametoindex'
"${tools}nm" -u "$out" | awk '{ sub(/^__imp_/, "", $2); print $2 }' | grep -v '^faulty_' \
	>"$scratch/left" || true
# shellcheck disable=SC2086 # words are meant
printf '%s\n' $harmless | grep -vxE -f - "$scratch/left" >"$scratch/forgotten" || true
if [ -s "$scratch/forgotten" ]; then
	echo "redirect_windows.sh: calls of the library's that can't be made to fail:" >&2
	cat "$scratch/forgotten" >&2
	rm -f "$out"
	exit 1
fi
