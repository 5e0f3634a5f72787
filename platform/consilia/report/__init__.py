"""What people see of a study: live progress, tables, figures, pictures and pages."""
