#include "textflag.h"

// The process begins here where the program is linked with -E
// _rt0_sallyport (see signals.go). Nothing of Go is there yet: only the
// kernel is asked, and the stack pointer, which shows argc, stays as it is.
TEXT _rt0_sallyport(SB), NOSPLIT|NOFRAME, $0
	MOVQ	$14, AX			// rt_sigprocmask(0, nil, &mask, 8)
	XORL	DI, DI
	XORL	SI, SI
	LEAQ	·startMask(SB), DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	$1, R12
next:
	MOVQ	$13, AX			// rt_sigaction(signal, nil, &action, 8)
	MOVQ	R12, DI
	XORL	SI, SI
	LEAQ	·startAction(SB), DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	·startAction(SB), R13
	CMPQ	R13, $1			// SIG_IGN
	JNE	other
	LEAQ	-1(R12), CX
	MOVQ	$1, R14
	SHLQ	CX, R14
	ORQ	R14, ·startIgnored(SB)
other:
	INCQ	R12
	CMPQ	R12, $64
	JLE	next
	MOVQ	$302, AX			// prlimit64(0, RLIMIT_NOFILE, nil, &files)
	XORL	DI, DI
	MOVQ	$7, SI
	XORL	DX, DX
	LEAQ	·startFiles(SB), R10
	SYSCALL
	MOVB	$1, ·startKnown(SB)
	JMP	_rt0_amd64_linux(SB)
