//! One file per resource. A route reads, asks a port and answers; rules that several share live beside this folder.

pub(crate) mod audit;
pub(crate) mod clusters;
pub(crate) mod control;
pub(crate) mod dashboard;
pub(crate) mod live;
pub(crate) mod node_list;
pub(crate) mod nodes;
pub(crate) mod openapi;
pub(crate) mod plans;
pub(crate) mod strategy;
pub(crate) mod tasks;
pub(crate) mod templates;
