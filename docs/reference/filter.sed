# Turns the headers' plain comments into doxygen's, line by line.

# What ends in _ is the library's own: no member to speak of.
s/^	[a-z][^(]*_(\[[0-9]+\])?;.*$//

# The comment that opens the file is the file's.
1s/^\/\* /\/** @file\
 * /

# A comment above, and a comment behind on the same line.
s/^([ 	]*)\/\* /\1\/** /
s/^([ 	]*[^ 	\/*].*[ 	])\/\* /\1\/**< /
