// SPDX-License-Identifier: GPL-2.0-only

//! What makes a handler a module.

/// Lets `modinfo` tell, in a field `liveupdate`, that a module is for the format of the handler `$handler`.
#[macro_export]
macro_rules! handler_format {
    ($handler:ty) => {
        $crate::modinfo!(
            "liveupdate",
            <$handler as $crate::liveupdate::FileHandler>::COMPATIBLE.to_bytes()
        );
    };
}

/// Defines the type of a module that registers the handler `$handler` while it is loaded, if live update
/// is on, and the `modinfo` field that names its format.
///
/// `$register` makes an `Option<Pin<KBox<Registration<$handler>>>>`, or fails. If there is something of the
/// type `$needs` that the handler needs as long as it is registered, it makes a pair with that.
#[macro_export]
macro_rules! handler_module {
    ($module:ident, $handler:ty, $register:expr) => {
        $crate::handler_module!(
            $module,
            $handler,
            $register.map(|registration| registration.map(|registration| (registration, ()))),
            ()
        );
    };
    ($module:ident, $handler:ty, $register:expr, $needs:ty) => {
        $crate::handler_format!($handler);

        struct $module {
            /// [`None`] if there is nothing to do. The registration goes first.
            _registration: Option<(
                Pin<KBox<$crate::liveupdate::Registration<$handler>>>,
                $needs,
            )>,
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
