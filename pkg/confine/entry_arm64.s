#include "textflag.h"

// See entry_amd64.s.
TEXT _rt0_sallyport(SB), NOSPLIT|NOFRAME, $0
	MOVD	$135, R8		// rt_sigprocmask(0, nil, &mask, 8)
	MOVD	$0, R0
	MOVD	$0, R1
	MOVD	$·startMask(SB), R2
	MOVD	$8, R3
	SVC
	MOVD	$1, R9
	MOVD	$0, R10
next:
	MOVD	$134, R8		// rt_sigaction(signal, nil, &action, 8)
	MOVD	R9, R0
	MOVD	$0, R1
	MOVD	$·startAction(SB), R2
	MOVD	$8, R3
	SVC
	MOVD	$·startAction(SB), R11
	MOVD	(R11), R12
	CMP	$1, R12			// SIG_IGN
	BNE	other
	SUB	$1, R9, R13
	MOVD	$1, R14
	LSL	R13, R14, R14
	ORR	R14, R10, R10
other:
	ADD	$1, R9, R9
	CMP	$64, R9
	BLE	next
	MOVD	$·startIgnored(SB), R11
	MOVD	R10, (R11)
	MOVD	$261, R8		// prlimit64(0, RLIMIT_NOFILE, nil, &files)
	MOVD	$0, R0
	MOVD	$7, R1
	MOVD	$0, R2
	MOVD	$·startFiles(SB), R3
	SVC
	MOVD	$1, R12
	MOVD	$·startKnown(SB), R11
	MOVB	R12, (R11)
	B	_rt0_arm64_linux(SB)
