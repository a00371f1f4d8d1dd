// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// The receiver. rdi: ledger, rbx: heartbeat, r8: number of the next frame, rsi: ring, rbp: buffers,
// r12: registers of the card, r13: what the card adds to an address, r15: number of slots less one.
// Position-independent; no stack, no interrupts.
.pushsection .rodata.receiver, "a"
.balign 16
.globl receiver
receiver:
	mov rbx, [rdi]
	mov r8, [rdi + 8]
	mov rsi, [rdi + 16]
	mov rbp, [rdi + 24]
	mov r12, [rdi + 32]
	mov r13, [rdi + 40]
	mov r15, [rdi + 48]
1:	mov r9, r8			// the slot that is next
	and r9, r15
	mov r10, r9
	shl r10, 4
	add r10, rsi
	mov rax, [r10 + 8]
	mov edx, eax
	and edx, 3			// done, and the end of a frame
	cmp edx, 3
	je 2f
	pause
	jmp 1b
2:	mov r14d, 7			// it is whole
	shr rax, 32
	cmp ax, 256
	jne 8f
	mov r11, r9
	shl r11, 11
	add r11, rbp
	mov r14d, 8			// it is the one that is due
	cmp r8, [r11 + 16]
	jne 8f
	mov r14d, 7			// every word of it is as it was sent
	movabs rax, 0x9e3779b97f4a7c15
	imul rax, r8
	or rax, 1
	mov ecx, 24
3:	mov rdx, rax
	shl rdx, 13
	xor rax, rdx
	mov rdx, rax
	shr rdx, 7
	xor rax, rdx
	mov rdx, rax
	shl rdx, 17
	xor rax, rdx
	cmp rax, [r11 + rcx]
	jne 8f
	add ecx, 8
	cmp ecx, 256
	jb 3b
	mov qword ptr [r10 + 8], 0	// the card may use the slot again
	add r11, r13
	mov [r10], r11
	mov [r12 + 0x2818], r9d
	inc r8
	mov [rdi + 8], r8
	test r8d, 7
	jnz 1b
	inc rbx
	mov [rdi], rbx
	mov eax, ebx
	mov dx, 0x510
	out dx, eax
	jmp 1b
8:	mov eax, r14d
	mov dx, 0x514
	out dx, eax
9:	pause				// nothing that follows could be right
	jmp 9b
.globl receiver_end
receiver_end:
.popsection
