// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// The tiny guest. rdi: ledger, rsi: first word, rcx: number of words, rbx: heartbeat, r8: sum,
// r11: random state, xmm0: heartbeat again. Position-independent; no stack, no interrupts.
.pushsection .rodata.tiny_guest, "a"
.balign 16
.globl tiny_guest
tiny_guest:
	mov rbx, [rdi]
	mov r8, [rdi + 8]
	mov rsi, [rdi + 16]
	mov rcx, [rdi + 24]
	mov r11, [rdi + 40]
	movq xmm0, rbx
	movabs r15, 6364136223846793005
	movabs r12, 1442695040888963407
2:	mov r9d, 4096
3:	imul r11, r15
	add r11, r12
	mov rax, r11
	mul rcx			// rdx: a place below the number of words
	mov rax, [rsi + rdx * 8]
	sub r8, rax
	mov rax, r11
	xor rax, rbx
	mov [rsi + rdx * 8], rax
	add r8, rax
	dec r9d
	jnz 3b
	movq rax, xmm0
	cmp rax, rbx
	je 4f
	mov eax, 2
	mov dx, 0x514
	out dx, eax
4:	inc rbx
	movq xmm0, rbx
	mov [rdi], rbx
	mov [rdi + 8], r8
	test bl, 31
	jnz 6f
	xor eax, eax
	xor edx, edx
5:	add rax, [rsi + rdx * 8]
	inc rdx
	cmp rdx, rcx
	jb 5b
	inc qword ptr [rdi + 32]
	cmp rax, r8
	je 6f
	mov eax, 1
	mov dx, 0x514
	out dx, eax
6:	mov eax, ebx
	mov dx, 0x510
	out dx, eax
	jmp 2b
.globl tiny_guest_end
tiny_guest_end:
.popsection
