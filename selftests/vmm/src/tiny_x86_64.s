// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// The tiny guest. rdi: ledger, rsi: first page, rbp: distance of its pages, rcx: number of words,
// rbx: heartbeat, r8: sum, r11: random state, xmm0: heartbeat again. Position-independent; no stack,
// no interrupts.
.pushsection .rodata.tiny_guest, "a"
.balign 16
.globl tiny_guest
tiny_guest:
	mov rdx, [rdi + 72]		// a page to convert, if memory is private
	test rdx, rdx
	jz 21f
	lea rsi, [rip + tiny_guest]	// then this runs in the page behind it
	xor ecx, ecx
20:	mov rax, [rsi + rcx * 8]
	mov [rdx + rcx * 8 + 4096], rax
	inc ecx
	cmp ecx, 512
	jb 20b
	lea rax, [rip + 21f]
	sub rax, rsi
	lea rax, [rax + rdx + 4096]
	jmp rax
21:	mov rbx, [rdi]
	mov r8, [rdi + 8]
	mov rsi, [rdi + 16]
	mov rcx, [rdi + 24]
	mov r11, [rdi + 40]
	mov rbp, [rdi + 64]
	movq xmm0, rbx
	movabs r15, 6364136223846793005
	movabs r12, 1442695040888963407
2:	mov r9d, 4096
3:	imul r11, r15
	add r11, r12
	mov rax, r11
	mul rcx				// rdx: a place below the number of words
	mov r10, rdx
	shr r10, 9
	imul r10, rbp
	and edx, 511
	lea r10, [r10 + rdx * 8]
	mov rax, [rsi + r10]
	sub r8, rax
	mov rax, r11
	xor rax, rbx
	mov [rsi + r10], rax
	add r8, rax
	dec r9d
	jnz 3b
	movq rax, xmm0
	cmp rax, rbx
	je 4f
	mov eax, 2
	mov dx, 0x514
	out dx, eax
4:	rdtsc				// time goes on
	shl rdx, 32
	or rdx, rax
	mov rax, [rdi + 104]
	mov [rdi + 104], rdx
	cmp rdx, rax
	jae 23f
	mov eax, 6
	mov dx, 0x514
	out dx, eax
23:	inc rbx
	movq xmm0, rbx
	mov [rdi], rbx
	mov [rdi + 8], r8
	add rcx, [rdi + 56]		// more pages, which are all zero
	mov rax, [rdi + 48]
	cmp rcx, rax
	cmova rcx, rax
	mov [rdi + 24], rcx
	test bl, 31
	jnz 6f
	xor eax, eax
	mov r10, rsi
	mov r13, rcx
7:	xor edx, edx
5:	add rax, [r10 + rdx * 8]
	inc edx
	cmp edx, 512
	jb 5b
	add r10, rbp
	sub r13, 512
	ja 7b
	inc qword ptr [rdi + 32]
	cmp rax, r8
	je 6f
	mov eax, 1
	mov dx, 0x514
	out dx, eax
6:	test bl, 7
	jnz 9f
	mov r13, [rdi + 72]
	test r13, r13
	jz 9f
	mov eax, 3			// the page has what it had
	mov r10, [r13]
	cmp r10, [rdi + 80]
	jne 8f
	mov r14, rbx			// convert it: private and shared in turns
	mov r9, rcx
	mov edx, ebx
	and edx, 8
	add edx, edx			// KVM_MAP_GPA_RANGE_ENCRYPTED, or not
	mov rbx, r13
	mov ecx, 1
	mov eax, 12			// KVM_HC_MAP_GPA_RANGE
	lea r10, [rip + 22f]
	jmp qword ptr [rdi + 88]
22:	mov rcx, r9
	mov rbx, r14
	mov r10, rax
	mov eax, 4			// that was done
	test r10, r10
	jnz 8f
	mov eax, 5			// and nothing of the other page is seen
	cmp qword ptr [r13], 0
	jne 8f
	mov [r13], r11
	mov [rdi + 80], r11
	inc qword ptr [rdi + 96]
	jmp 9f
8:	mov dx, 0x514
	out dx, eax
9:	mov eax, ebx
	mov dx, 0x510
	out dx, eax
	jmp 2b
// It stays in memory that the host can read: KVM decodes it.
.globl tiny_guest_hypercall
tiny_guest_hypercall:
	vmmcall
	jmp r10
.globl tiny_guest_end
tiny_guest_end:
.popsection
