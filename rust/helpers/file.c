// SPDX-License-Identifier: GPL-2.0-only

#include <linux/fs.h>

unsigned long luo_helper_file_inode_key(struct file *file)
{
	return (unsigned long)file_inode(file);
}

u64 luo_helper_file_ino(struct file *file)
{
	return file_inode(file)->i_ino;
}

loff_t luo_helper_file_pos(struct file *file)
{
	return READ_ONCE(file->f_pos);
}

bool luo_helper_file_is_unlinked(struct file *file)
{
	return !file_inode(file)->i_nlink;
}

bool luo_helper_set_file_pos(struct file *file, loff_t pos)
{
	return vfs_setpos(file, pos, MAX_LFS_FILESIZE) == pos;
}

/* Whether the mode of the file lets anybody execute it. */
bool luo_helper_file_is_exec(struct file *file)
{
	return file_inode(file)->i_mode & 0111;
}

/* Only for a file that nobody else knows yet. */
void luo_helper_set_file_noexec(struct file *file)
{
	file_inode(file)->i_mode &= ~0111;
}
