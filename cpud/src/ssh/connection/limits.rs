//! How much a peer that has logged in can make this process hold for it. Such a peer may do everything on the machine; the
//! limits are for clients with faults.

use super::ConnectionHandler;

/// The most channels of a connection.
const MAX_CHANNELS: usize = 1000;

/// The most bytes of variables that commands which have not been started have got. Linux has no room for more either (execve(2)).
const MAX_ENVIRONMENT: usize = 1 << 20;

/// What a variable takes besides its text.
const VARIABLE: usize = 64;

/// Why a command is not started of which there was no room for a variable: it would run without.
pub(super) fn no_room_for_variables() -> String {
    format!(
        "the environment has more than {MAX_ENVIRONMENT} bytes (or those of several commands that start at once have); \
         leave variables out, as with cpu -env '*,-BIG*'"
    )
}

impl ConnectionHandler {
    /// Whether one more channel may be opened.
    pub(super) fn has_room_for_channel(&self) -> bool {
        self.mux.channels() < MAX_CHANNELS
    }

    /// Whether one more variable may be kept.
    pub(super) fn has_room_for_variable(&self, name: &str, value: &str) -> bool {
        let size = |name: &str, value: &str| VARIABLE + name.len() + value.len();
        let requests = self.channels.values().map(|state| &state.request);
        let variables = requests.flat_map(|request| &request.environment);
        let held: usize = variables.map(|(name, value)| size(name, value)).sum();
        held + size(name, value) <= MAX_ENVIRONMENT
    }
}
