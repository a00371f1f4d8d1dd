/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The few calls of libcap that upstream's selftests of iommufd make, for the calling thread: the build tools do
 * not have libcap.
 */
#ifndef LU_SYS_CAPABILITY_H
#define LU_SYS_CAPABILITY_H

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef int cap_value_t;
typedef enum { CAP_EFFECTIVE, CAP_PERMITTED, CAP_INHERITABLE } cap_flag_t;
typedef enum { CAP_CLEAR, CAP_SET } cap_flag_value_t;
typedef struct {
	struct __user_cap_header_struct head;
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
} *cap_t;

static inline int cap_free(void *caps)
{
	free(caps);
	return 0;
}

static inline cap_t cap_get_proc(void)
{
	cap_t caps = calloc(1, sizeof(*caps));

	if (!caps)
		return NULL;
	caps->head.version = _LINUX_CAPABILITY_VERSION_3;
	if (syscall(SYS_capget, &caps->head, caps->data)) {
		cap_free(caps);
		return NULL;
	}
	return caps;
}

static inline int cap_set_proc(cap_t caps)
{
	return syscall(SYS_capset, &caps->head, caps->data);
}

static inline int cap_set_flag(cap_t caps, cap_flag_t flag, int nr, const cap_value_t *values,
			       cap_flag_value_t to)
{
	for (int i = 0; i < nr; i++) {
		struct __user_cap_data_struct *data;
		__u32 *word;

		if (values[i] < 0 || values[i] > CAP_LAST_CAP) {
			errno = EINVAL;
			return -1;
		}
		data = &caps->data[CAP_TO_INDEX(values[i])];
		word = flag == CAP_EFFECTIVE ? &data->effective :
		       flag == CAP_PERMITTED ? &data->permitted : &data->inheritable;
		if (to == CAP_SET)
			*word |= CAP_TO_MASK(values[i]);
		else
			*word &= ~CAP_TO_MASK(values[i]);
	}
	return 0;
}

#endif
