"""The types that flow through prunus, the roles that methods play, and the registry. Imports nothing of ours."""
