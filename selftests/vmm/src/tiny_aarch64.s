// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// The tiny guest. x0: ledger, x1: first page, x13: distance of its pages, x2: number of words,
// x3: heartbeat, x4: sum, x5: random state, d0: heartbeat again. Position-independent; no stack,
// no interrupts, no MMU.
.pushsection .rodata.tiny_guest, "a"
.balign 16
.globl tiny_guest
tiny_guest:
	mov	x9, #(3 << 20)		// FPU on
	msr	cpacr_el1, x9
	isb
	ldp	x3, x4, [x0]
	ldp	x1, x2, [x0, #16]
	ldr	x5, [x0, #40]
	ldr	x13, [x0, #64]
	fmov	d0, x3
	movz	x6, #0x7f2d
	movk	x6, #0x4c95, lsl #16
	movk	x6, #0xf42d, lsl #32
	movk	x6, #0x5851, lsl #48
	movz	x7, #0x814f
	movk	x7, #0xf767, lsl #16
	movk	x7, #0x7b7e, lsl #32
	movk	x7, #0x1405, lsl #48
	movz	x8, #0x0901, lsl #16	// heartbeat register, the fault register is 8 bytes behind
2:	mov	w9, #4096
3:	madd	x5, x5, x6, x7
	umulh	x10, x5, x2		// a place below the number of words
	lsr	x14, x10, #9
	and	x10, x10, #511
	mul	x14, x14, x13
	add	x14, x14, x10, lsl #3
	ldr	x11, [x1, x14]
	sub	x4, x4, x11
	eor	x11, x5, x3
	str	x11, [x1, x14]
	add	x4, x4, x11
	subs	w9, w9, #1
	b.ne	3b
	fmov	x10, d0
	cmp	x10, x3
	b.eq	4f
	mov	w10, #2
	str	w10, [x8, #8]
4:	ldr	x10, [x0, #104]		// time goes on
	isb
	mrs	x11, cntvct_el0
	str	x11, [x0, #104]
	cmp	x11, x10
	b.hs	8f
	mov	w10, #6
	str	w10, [x8, #8]
8:	add	x3, x3, #1
	fmov	d0, x3
	stp	x3, x4, [x0]
	ldp	x10, x11, [x0, #48]	// more pages, which are all zero
	add	x2, x2, x11
	cmp	x2, x10
	csel	x2, x10, x2, hi
	str	x2, [x0, #24]
	tst	x3, #31
	b.ne	6f
	mov	x10, #0
	mov	x14, x1
	mov	x15, x2
7:	mov	x11, #0
5:	ldr	x12, [x14, x11, lsl #3]
	add	x10, x10, x12
	add	x11, x11, #1
	cmp	x11, #512
	b.lo	5b
	add	x14, x14, x13
	subs	x15, x15, #512
	b.hi	7b
	ldr	x12, [x0, #32]
	add	x12, x12, #1
	str	x12, [x0, #32]
	cmp	x10, x4
	b.eq	6f
	mov	w10, #1
	str	w10, [x8, #8]
6:	str	w3, [x8]
	b	2b
.globl tiny_guest_end
tiny_guest_end:
.popsection
