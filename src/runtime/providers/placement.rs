//! The nodes of a session's graph that each provider runs.

use std::collections::BTreeMap;
use std::ffi::CStr;

use ort::AsPointer as _;
use ort::session::Session;

/// The number of nodes of each provider, by ONNX Runtime's names. The session has to record them.
pub(in crate::runtime) fn nodes(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let api = ort::api();
    let (mut parts, mut count) = (std::ptr::null(), 0);
    let mut nodes = BTreeMap::new();
    // SAFETY: ONNX Runtime gives an array of `count` parts, which belong to the session and live as long as it.
    unsafe {
        ort::Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut count))?;
        for index in 0..if parts.is_null() { 0 } else { count } {
            let part = *parts.add(index);
            let (mut name, mut inside, mut len) = (std::ptr::null(), std::ptr::null(), 0);
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(part, &mut name))?;
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(part, &mut inside, &mut len))?;
            *nodes.entry(CStr::from_ptr(name).to_string_lossy().into_owned()).or_insert(0) += len;
        }
    }
    Ok(nodes)
}
