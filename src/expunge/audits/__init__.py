"""What whole pools of models show: one component an audit."""
