// SPDX-License-Identifier: GPL-2.0-only

#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>

bool luo_helper_is_shmem(struct file *file)
{
	return shmem_file(file);
}

loff_t luo_helper_shmem_size(struct file *file)
{
	return i_size_read(file_inode(file));
}

/* Only for a file that nobody else knows yet. */
void luo_helper_shmem_set_size(struct file *file, loff_t size)
{
	i_size_write(file_inode(file), size);
}

/* Order of the largest folio that can be in the page cache of a file. */
unsigned int luo_helper_shmem_max_order(struct file *file)
{
	return mapping_max_folio_order(file->f_mapping);
}

int luo_helper_shmem_freeze(struct file *file)
{
	struct inode *inode = file_inode(file);
	int err = 0;

	inode_lock(inode);
	if (SHMEM_I(inode)->flags & SHMEM_F_MAPPING_FROZEN)
		err = -EBUSY;
	else
		shmem_freeze(inode, true);
	inode_unlock(inode);
	return err;
}

void luo_helper_shmem_thaw(struct file *file)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	shmem_freeze(inode, false);
	inode_unlock(inode);
}

int luo_helper_shmem_insert(struct file *file, struct folio **folios,
			    const unsigned long *indices, unsigned int nr,
			    unsigned int *nr_done)
{
	return shmem_insert_folios(file_inode(file), folios, indices, nr,
				   nr_done);
}
