" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective address address_literals all allow_loopback announce_size attempt_starttls
syntax keyword mailgateDirective attempts auth auth_insecure auth_mechanisms auth_required
syntax keyword mailgateDirective auth_required_message backoff balance banner body_spool_limit bounce ca cache
syntax keyword mailgateDirective case_insensitive cert certificate check chunking ciphers client_auth
syntax keyword mailgateDirective client_ca command_timeout concurrency connect connect_timeout control create
syntax keyword mailgateDirective curves data data_block data_timeout debug default_destination default_source
syntax keyword mailgateDirective defer_sender_reject deliver_to destination destination_in disable_commands
syntax keyword mailgateDirective discard early_talker ehlo endpoint entry expand_placeholders expect expire
syntax keyword mailgateDirective failover failures fallback_delay file final_dot from full_match given
syntax keyword mailgateDirective greeting greeting_delay handshake_timeout header health helo helo_response
syntax keyword mailgateDirective hide hide_client hold_timeout hostname idle_timeout import insecure_auth ip
syntax keyword mailgateDirective ip_strategy key lease_timeout level limits listener local_domains log
syntax keyword mailgateDirective log_name mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_message_size
syntax keyword mailgateDirective max_messages max_received max_recipients max_rejected_recipients
syntax keyword mailgateDirective max_unauthenticated_commands modify multihomed_limit mx_limit network
syntax keyword mailgateDirective nonlocal_source notify nul on_split optional_step port private_key probe
syntax keyword mailgateDirective protocols proxy_protocol quiet_hosts quit rcpt rcpt_to read_timeout
syntax keyword mailgateDirective refuse_clients reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective reserved_connections resolver retry reverse_lookup reverse_lookup_timeout
syntax keyword mailgateDirective root_ca rset runtime_dir schemes servers session_timeout shutdown_timeout
syntax keyword mailgateDirective slow_start smtp_max_line_length sni sni_lookup socket_group socket_mode
syntax keyword mailgateDirective source source_in source_ip source_ip_fallback source_selection state_dir step
syntax keyword mailgateDirective store strict_addresses strict_line_endings submission_timeout target targets
syntax keyword mailgateDirective tarpit tempfail timeout timeouts tls tls_capture_peer_cert tls_ciphers
syntax keyword mailgateDirective tls_client tls_client_cert tls_default_ca tls_protocols tls_sni tls_start
syntax keyword mailgateDirective tls_verify_host tls_verify_name token total trust trusted user users
syntax keyword mailgateDirective verify_failure weight xclient xforward
syntax keyword mailgateModule admin auth.external auth.file auth.static chain checks email_localpart
syntax keyword mailgateModule email_with_domain external identity lmtp maildir modifiers modify.replace_rcpt
syntax keyword mailgateModule modify.replace_sender msgpipeline pki queue regexp remote replace_rcpt
syntax keyword mailgateModule replace_sender smtp source_address static submission table.chain
syntax keyword mailgateModule table.email_localpart table.email_with_domain table.file table.identity
syntax keyword mailgateModule table.regexp table.static target.lmtp target.maildir target.queue target.remote
syntax keyword mailgateModule target.smtp test
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2 accept allow
syntax keyword mailgateValue argon2 auto bcrypt clear cram-md5 defer disabled error false fingerprint forward
syntax keyword mailgateValue happy_eyeballs ignore info ipv4_only ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json
syntax keyword mailgateValue least_busy login name next no normalize oauthbearer off on operate optional
syntax keyword mailgateValue optional_verify ordered plain random require require_verify round_robin
syntax keyword mailgateValue scram-sha-256 self_signed sha256-crypt sha512-crypt sqlite stderr stdout strip
syntax keyword mailgateValue subject syslog true verify view warn xoauth2 yes yescrypt
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
