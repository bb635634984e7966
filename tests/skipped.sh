#!/bin/sh
# A test that can't be had on this machine: in its place, so that its being skipped is
# seen, with the reason.
#
# usage: skipped.sh TEST REASON
echo "SKIPPED $1: $2"
echo '0 passed, 0 failed, 1 skipped'
exit 77
