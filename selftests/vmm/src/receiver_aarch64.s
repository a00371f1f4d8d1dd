// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// The receiver. x0: ledger, x3: heartbeat, x4: number of the next frame, x1: ring, x2: buffers,
// x12: registers of the card, x13: what the card adds to an address, x17: number of slots less one.
// Position-independent; no stack, no interrupts, no MMU.
.pushsection .rodata.receiver, "a"
.balign 16
.globl receiver
receiver:
	ldp	x3, x4, [x0]
	ldp	x1, x2, [x0, #16]
	ldp	x12, x13, [x0, #32]
	ldr	x17, [x0, #48]
	movz	x6, #0x7c15
	movk	x6, #0x7f4a, lsl #16
	movk	x6, #0x79b9, lsl #32
	movk	x6, #0x9e37, lsl #48
	movz	x8, #0x0901, lsl #16	// heartbeat register, the fault register is 8 bytes behind
	mov	x15, #0x2818
1:	and	x9, x4, x17		// the slot that is next
	add	x10, x1, x9, lsl #4
	ldr	x11, [x10, #8]
	and	w14, w11, #3		// done, and the end of a frame
	cmp	w14, #3
	b.eq	2f
	yield
	b	1b
2:	dmb	sy
	mov	w7, #7			// it is whole
	ubfx	x11, x11, #32, #16
	cmp	w11, #256
	b.ne	8f
	add	x11, x2, x9, lsl #11
	mov	w7, #8			// it is the one that is due
	ldr	x14, [x11, #16]
	cmp	x14, x4
	b.ne	8f
	mov	w7, #7			// every word of it is as it was sent
	mul	x14, x4, x6
	orr	x14, x14, #1
	mov	x5, #24
3:	eor	x14, x14, x14, lsl #13
	eor	x14, x14, x14, lsr #7
	eor	x14, x14, x14, lsl #17
	ldr	x16, [x11, x5]
	cmp	x16, x14
	b.ne	8f
	add	x5, x5, #8
	cmp	x5, #256
	b.lo	3b
	str	xzr, [x10, #8]		// the card may use the slot again
	add	x11, x11, x13
	str	x11, [x10]
	dsb	sy
	str	w9, [x12, x15]
	add	x4, x4, #1
	str	x4, [x0, #8]
	tst	x4, #7
	b.ne	1b
	add	x3, x3, #1
	str	x3, [x0]
	str	w3, [x8]
	b	1b
8:	str	w7, [x8, #8]
9:	yield				// nothing that follows could be right
	b	9b
.globl receiver_end
receiver_end:
.popsection
