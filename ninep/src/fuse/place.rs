//! Fids of files that have none any more: the way to such a file is walked again, before what the kernel asks of it is begun.

use bytes::Bytes;

use super::abi::{Fields, InHeader, Opcode};
use super::nodes::{Location, ROOT};
use super::request::name;
use super::{FuseFront, FuseStep};
use crate::errno::Errno;
use crate::msg::{Qid, Request};
use crate::wire::WalkVec;

/// The longest way to a file (`PATH_MAX` / 2).
const MAX_DEPTH: usize = 2048;

impl FuseFront {
    /// Begins a walk to a file that a request needs, and that has no fid. False if there is none.
    pub(super) fn find_again(
        &mut self,
        operation: Opcode,
        header: &InHeader,
        fields: Fields<'_>,
        request: &[u8],
    ) -> Result<bool, Errno> {
        let other = match operation {
            Opcode::Link | Opcode::Rename | Opcode::Rename2 => Some(fields.clone().u64()),
            // They need none.
            Opcode::Init
            | Opcode::Destroy
            | Opcode::Interrupt
            | Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Read
            | Opcode::Write
            | Opcode::Flush
            | Opcode::Release
            | Opcode::Releasedir => return Ok(false),
            _ => None,
        };
        for number in [Some(header.node), other].into_iter().flatten() {
            self.nodes.touch(number);
            let mut number = number;
            for _ in 0..MAX_DEPTH {
                let node = self.node(number)?;
                if node.fid.is_some() {
                    break;
                }
                let dir = node.place.dir;
                if self.node(dir)?.fid.is_some() {
                    self.walk_again(header.unique, number, request)?;
                    return Ok(true);
                }
                number = dir;
            }
        }
        Ok(false)
    }

    fn walk_again(&mut self, unique: u64, number: u64, request: &[u8]) -> Result<(), Errno> {
        let Location { dir, name: called } = self.node(number)?.place.clone();
        let mut names = WalkVec::default();
        names.push(name(&called)?);
        let from = self.node_fid(dir)?;
        let newfid = self.fids.take();
        let step = FuseStep::WalkAgain {
            node: number,
            fid: newfid,
            request: Bytes::copy_from_slice(request),
        };
        let request = Request::Walk {
            fid: from,
            newfid,
            names,
        };
        self.send(unique, step, &request);
        Ok(())
    }

    /// A file has been walked to, and is this one: begins what needs it, if it is still the same.
    pub(super) fn found_again(
        &mut self,
        unique: u64,
        node: u64,
        fid: u32,
        qid: Option<Qid>,
        request: &[u8],
    ) {
        let known = self.nodes.get(node).map(|node| node.attr.qid);
        let same = known.zip(qid).is_some_and(|(known, qid)| {
            known.path == qid.path && known.kind & Qid::DIR == qid.kind & Qid::DIR
        });
        if !same {
            self.clunk(0, fid);
            // The kernel looks the name up again.
            return self.fail(unique, Errno::ESTALE);
        }
        if let Some(unneeded) = self.nodes.refill(node, fid) {
            self.clunk(0, unneeded);
        }
        self.drop_idle();
        self.from_kernel(request);
    }

    /// Ends the fid of a file that has not been used for long, if there are too many.
    pub(super) fn drop_idle(&mut self) {
        let pending = &self.pending;
        let busy = |number| {
            let mut steps = pending.iter().flatten().map(|pending| &pending.op.step);
            number == ROOT || steps.any(|step| step.uses(number))
        };
        if let Some(fid) = self.nodes.take_idle(busy) {
            self.clunk(0, fid);
        }
    }

    /// An open file more, or less, of a file.
    pub(super) fn count_open(&mut self, node: u64, is_open: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.opens = if is_open {
                node.opens.saturating_add(1)
            } else {
                node.opens.saturating_sub(1)
            };
        }
    }
}

impl FuseStep {
    /// Whether a later step needs the fid of this file.
    fn uses(&self, number: u64) -> bool {
        match self {
            Self::Make { place, .. }
            | Self::CreateClone { place, .. }
            | Self::Create { place, .. } => place.dir == number,
            Self::Setattr { node, .. }
            | Self::Getattr { node }
            | Self::OpenClone { node, .. }
            | Self::Open { node, .. } => *node == number,
            _ => false,
        }
    }
}
