// SPDX-License-Identifier: GPL-2.0-only

//! What makes a handler a module.

/// Defines the type of a module that registers the handler `$handler` while it is loaded, if live update
/// is on, and the `modinfo` field that names its format.
///
/// `$register` makes an `Option<Pin<KBox<Registration<$handler>>>>`, or fails.
#[macro_export]
macro_rules! handler_module {
    ($module:ident, $handler:ty, $register:expr) => {
        /// Lets `modinfo` tell which format the module is for.
        #[cfg(MODULE)]
        #[link_section = ".modinfo"]
        #[used(compiler)]
        static FORMAT: [u8; FORMAT_LEN] =
            $crate::modinfo_format(<$handler as $crate::liveupdate::FileHandler>::COMPATIBLE);
        #[cfg(MODULE)]
        const FORMAT_LEN: usize = "format=".len()
            + <$handler as $crate::liveupdate::FileHandler>::COMPATIBLE
                .to_bytes_with_nul()
                .len();

        struct $module {
            /// [`None`] if there is nothing to do.
            _registration: Option<Pin<KBox<$crate::liveupdate::Registration<$handler>>>>,
        }

        impl kernel::Module for $module {
            fn init(_module: &'static ThisModule) -> Result<Self> {
                let registration = if $crate::liveupdate::enabled() {
                    $register?
                } else {
                    pr_info!("inactive: boot with \"kho=on liveupdate=on\" to preserve files\n");
                    None
                };
                Ok(Self {
                    _registration: registration,
                })
            }
        }
    };
}
