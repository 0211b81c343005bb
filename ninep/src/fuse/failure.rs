//! What a refusal by the server leads to: the fids that end with it, and the error that the kernel gets.

use super::{FuseFront, FuseStep};
use crate::errno::Errno;
use crate::msg::Attr;

impl FuseFront {
    /// A step has failed. If it is `unsure` whether the server has done it, a fid that it would have made is ended.
    pub(super) fn failed(&mut self, unique: u64, step: &FuseStep, errno: Errno, unsure: bool) {
        if matches!(errno, Errno::ESTALE | Errno::EBADF) {
            // A fid may be of a file that is not there any more.
            self.nodes.distrust();
        }
        let errno = match step {
            // The kernel looks the name up again.
            FuseStep::Create {
                exclusive: false, ..
            } if errno == Errno::EEXIST => Errno::ESTALE,
            FuseStep::WalkAgain { .. } if matches!(errno, Errno::ENOENT | Errno::ENOTDIR) => {
                Errno::ESTALE
            }
            _ => errno,
        };
        match *step {
            // Whose name the user has does not say that he may give files away: it is his, then.
            FuseStep::Own { ref place, fid } if errno == Errno::EPERM => {
                return self.entry_attr(unique, place.clone(), fid);
            }
            FuseStep::CreateOwn {
                ref place,
                open,
                fid,
                path,
            } if errno == Errno::EPERM => {
                return self.create_attr(unique, place.clone(), (open, fid, path));
            }
            FuseStep::Walk {
                fid, owner: None, ..
            } if errno == Errno::ENOENT && !unsure => {
                self.fids.free(fid);
                let ttl = self.ttl();
                if !ttl.is_zero() {
                    let none = Attr::default();
                    return self.answer(unique, |out| out.entry_out(0, &none, ttl));
                }
            }
            // The fid that a walk would have made does not exist.
            FuseStep::Walk { fid, .. }
            | FuseStep::WalkAgain { fid, .. }
            | FuseStep::XattrWalk { fid, .. }
            | FuseStep::CreateClone { fid, .. }
            | FuseStep::OpenClone { fid, .. }
            | FuseStep::XattrClone { fid, .. } => {
                if unsure {
                    self.clunk(0, fid);
                } else {
                    self.fids.free(fid);
                }
            }
            FuseStep::CreateWalk { open, fid, .. } => {
                self.clunk(0, open);
                if unsure {
                    self.clunk(0, fid);
                } else {
                    self.fids.free(fid);
                }
            }
            FuseStep::CreateAttr { open, fid, .. } | FuseStep::CreateOwn { open, fid, .. } => {
                self.clunk(0, open);
                self.clunk(0, fid);
            }
            FuseStep::Own { fid, .. }
            | FuseStep::EntryAttr { fid, .. }
            | FuseStep::Create { fid, .. }
            | FuseStep::Open { fid, .. }
            | FuseStep::XattrRead { fid, .. }
            | FuseStep::XattrCreate { fid, .. }
            | FuseStep::XattrWrite { fid } => self.clunk(0, fid),
            FuseStep::Clunk { fid, unlocks } => self.clunked(fid, unlocks),
            // The request that it was for has its own reply.
            FuseStep::Flush { .. } => return,
            _ => {}
        }
        self.fail(unique, errno);
    }
}
