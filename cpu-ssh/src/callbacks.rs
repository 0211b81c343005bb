//! The callbacks of a russh handler, client or server, that forward what arrives on a channel to its [`crate::Mux`].

/// Defines `data`, `extended_data`, `channel_eof` and `channel_close` in an implementation of russh's `Handler`.
/// Arguments: the handler's field that is the [`crate::Mux`]; the type of the session; optionally a method to call
/// with the number of a channel that has been closed. The handler's error must implement `From` for
/// [`crate::mux::Violation`].
#[macro_export]
macro_rules! channel_callbacks {
    ($mux:tt, $session:ty $(, $closed:ident)?) => {
        async fn data(
            &mut self,
            id: ::russh::ChannelId,
            bytes: &[u8],
            _: &mut $session,
        ) -> Result<(), Self::Error> {
            Ok(self.$mux.data(id, 0, bytes)?)
        }

        async fn extended_data(
            &mut self,
            id: ::russh::ChannelId,
            kind: u32,
            bytes: &[u8],
            _: &mut $session,
        ) -> Result<(), Self::Error> {
            Ok(self.$mux.data(id, kind, bytes)?)
        }

        async fn channel_eof(
            &mut self,
            id: ::russh::ChannelId,
            _: &mut $session,
        ) -> Result<(), Self::Error> {
            self.$mux.eof(id);
            Ok(())
        }

        async fn channel_close(
            &mut self,
            id: ::russh::ChannelId,
            _: &mut $session,
        ) -> Result<(), Self::Error> {
            self.$mux.close(id);
            $(self.$closed(id);)?
            Ok(())
        }
    };
}
