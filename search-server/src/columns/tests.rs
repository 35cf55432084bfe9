//! Tables as people see them.
